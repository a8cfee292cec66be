"""What the gates say, in lines that a person reads: verdict, requests, evidence by metric.

Draws status.gates as the operator committed it; computes and decides nothing. Called by screen.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from llmrollouts.api.status import GateMetric, GatePower, GateStatus, Verdict

# Shapes carry the meaning, colours repeat it.
_MARKS: Final[dict[Verdict, tuple[str, str]]] = {
    "Passed": ("✔", "green"),
    "Failed": ("✘", "red"),
    "Frozen": ("!", "red"),
    "Error": ("!", "yellow"),
    "Inconclusive": ("?", "yellow"),
}
# A screen that one reads in five seconds has no room for more; `-o json` has them all.
SHOWN_METRICS: Final = 6


def draw_gates(gates: Iterable[GateStatus], *, running: bool = True) -> Group | None:
    """A block of lines; None when no gate has spoken. running: a step still can find something."""
    lines: list[RenderableType] = []
    for gate in gates:
        mark, colour = _MARKS[gate.verdict]
        text = Text()
        text.append(f"  {mark} ", style=colour)
        text.append(f"gate {gate.name}: ", style="bold")
        text.append(_describe_verdict(gate), style=colour)
        if gate.canary_requests is not None:
            text.append(
                f" · {gate.canary_requests:,} requests against {gate.control_requests or 0:,}"
            )
        told = [Text(gate.message)]
        if running and gate.power is not None:
            told.append(
                Text(describe_power(gate.power), style="yellow" if gate.power.blind else "")
            )
        told += [Text(_describe_metric(m), style="dim") for m in gate.metrics[:SHOWN_METRICS]]
        # Long lines go on below their own beginning, so that the next gate is found by its mark.
        lines += [text, *(Padding(line, (0, 0, 0, 6), expand=False) for line in told)]
    return Group(*lines) if lines else None


def describe_power(power: GatePower) -> str:
    """What the running step can find, in a line."""
    pace = f"at {power.requests_per_second} requests/s"
    if not power.finds:
        return f"finds nothing {pace}: this step is too short or sees too few requests"
    return f"finds {pace}: {power.finds}{', but no slower revision' if power.blind else ''}"


def _describe_verdict(gate: GateStatus) -> str:
    """The verdict, and what a larger share still waits for."""
    told = gate.verdict if gate.verdict == "Passed" else f"{gate.verdict} ({gate.reason})"
    match gate.proof:
        case "Proven":
            return f"{told}, shown to be no worse"
        case "Collecting" if gate.verdict == "Passed":
            return f"{told} so far, not yet shown to be no worse"
        case _:
            return told


def _describe_metric(metric: GateMetric) -> str:
    parts = []
    ratios = [
        f"{name} {value}x"
        for name, value in (("p50", metric.p50), ("p95", metric.p95), ("p99", metric.p99))
        if value is not None
    ]
    if ratios:
        parts.append(f"{', '.join(ratios)} as slow")
    if metric.evidence is not None and metric.needed is not None:
        parts.append(f"evidence of harm {metric.evidence}, acts at {metric.needed}")
    # At or below zero nothing is shown: the bound says only how far apart both are at least.
    if metric.ks_lower is not None and float(metric.ks_lower) > 0:
        parts.append(f"at least {metric.ks_lower} apart")
    if not parts and metric.message:
        parts.append(metric.message)
    return f"{metric.name:<11} {'; '.join(parts)}".rstrip()
