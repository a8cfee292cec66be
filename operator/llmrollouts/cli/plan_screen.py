"""What ``kubectl llm plan`` found, for programs and for people. Decides nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from llmrollouts.analysis.reach import Power, describe_reach, format_rate, is_blind
from llmrollouts.api.duration import format_duration
from llmrollouts.cli.columns import draw_columns
from llmrollouts.cli.policy_file import PlannedStep


@dataclass(frozen=True)
class StepPower:
    """One step. canary, control: compared requests a second; workers: of the canary; tapped:
    whether the engines have the tap; waits: why nothing follows it by itself, where that is so."""

    step: PlannedStep
    canary: float
    control: float
    workers: int
    margin: float
    powers: tuple[Power, ...]
    tapped: bool = True
    waits: str | None = None

    @property
    def summary(self) -> str:
        return describe_reach(self.powers, self.canary).message

    @property
    def warning(self) -> str | None:
        if not is_blind(self.powers):
            return None
        if not self.tapped:
            return (
                "this step cannot find any slower revision: no regression is sure to carry enough "
                f"requests over the next bound of the histograms ({format_rate(self.canary)} "
                f"compared requests a second for {format_duration(self.step.seconds)}); set own "
                "bounds (--custom-histogram-buckets), or use an engine that takes the tap"
            )
        return (
            f"this step cannot find any slower revision: {format_rate(self.canary)} compared "
            f"requests a second are too few within {format_duration(self.step.seconds)}; make it "
            "longer, raise its share, or keep matchLoad on"
        )


def report_plan(
    steps: list[StepPower], rate: float, sigma: float, notes: Sequence[str] = ()
) -> Mapping[str, object]:
    """The JSON form. Seconds count from the first request that the regression touches; null: not
    within the step."""
    return {
        "rate": rate,
        "model": {"latency": "lognormal", "sigma": sigma, "stableErrorRate": 0.001},
        "notes": list(notes),
        "steps": [
            {
                "kind": found.step.kind,
                "share": found.step.share_text,
                "seconds": found.step.seconds,
                "canaryWorkers": found.workers,
                "canaryRequestsPerSecond": round(found.canary, 4),
                "controlRequestsPerSecond": round(found.control, 4),
                "margin": round(found.margin - 1, 4),
                "level": found.step.level,
                "finds": [
                    {
                        "regression": power.effect.name,
                        "medianSeconds": power.median,
                        "p95Seconds": power.p95,
                        "p95Requests": power.requests(found.canary),
                    }
                    for power in found.powers
                ],
                "summary": found.summary,
                "warning": found.warning,
                "waits": found.waits,
            }
            for found in steps
        ],
    }


def draw_plan(
    steps: list[StepPower], rate: float, sigma: float, notes: Sequence[str] = ()
) -> RenderableType:
    """A block for each step."""
    # Without the tap a request counts when it has ended, and a few seconds later.
    late = "the time that it takes, about 4 s" if notes else "the age at which a request counts"
    parts: list[RenderableType] = [
        Text(
            f"{rate:g} requests/s, latencies lognormal with sigma {sigma:g}. Median / p95 from the "
            f"first request touched; add {late} and about 5 s to the last canary request."
        ),
        *(Text(f"! {note}", style="yellow") for note in notes),
    ]
    for number, found in enumerate(steps, start=1):
        step = found.step
        head = Text(f"\nStep {number}: {step.kind.lower()} {step.share_text}", style="bold")
        head.append(
            f" for {format_duration(step.seconds)}, {found.canary:,.3g} compared canary requests/s "
            f"on {found.workers} worker{'s' if found.workers > 1 else ''}, margin "
            f"{100 * (found.margin - 1):.0f}%",
            style="not bold",
        )
        rows: list[list[str | Text]] = [
            [
                f"  {power.effect.name}",
                _delay(power),
                "-" if power.p95 is None else f"{power.requests(found.canary):,}",
            ]
            for power in found.powers
        ]
        parts += [head, draw_columns(rows, ["  REGRESSION", "FOUND AFTER", "REQUESTS"])]
        parts += [
            Text(f"  ! {told}", style="yellow")
            for told in (found.warning, found.waits)
            if told is not None
        ]
    return Group(*parts)


def _delay(power: Power) -> str:
    if power.median is None:
        return "not in this step"
    median = _span(power.median)
    return f"{median} / {_span(power.p95)}" if power.p95 is not None else f"{median} / not surely"


def _span(seconds: float | None) -> str:
    value = math.ceil(seconds or 0)
    return f"{value} s" if value < 600 else format_duration(float(60 * math.ceil(value / 60)))
