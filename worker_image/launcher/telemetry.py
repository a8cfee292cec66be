"""The launcher's own few metrics, in Prometheus text form. One place for their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import VERSION


@dataclass(frozen=True)
class Reading:
    """What `/metrics` shows; times in seconds."""

    ready: bool
    draining: bool
    engine_up: bool
    ready_after: float | None
    probe_latency: float | None
    probe_failures_in_row: int
    probes_passed: int
    probes_passed_by_progress: int
    probes_failed: int
    verified_bytes: int


def render_metrics(reading: Reading) -> str:
    """The page; a value that is not known yet is left out instead of shown as 0."""
    lines: list[str] = []

    def add(name: str, kind: str, text: str, samples: Sequence[tuple[str, float]]) -> None:
        family = f"llmrollouts_launcher_{name}"
        lines.append(f"# HELP {family} {text}")
        lines.append(f"# TYPE {family} {kind}")
        lines.extend(f"{family}{labels} {value:.15g}" for labels, value in samples)

    add("info", "gauge", "Version of the launcher.", [(f'{{version="{VERSION}"}}', 1)])
    add("ready", "gauge", "1 while /readyz answers 200.", [("", reading.ready)])
    add("draining", "gauge", "1 once the worker is leaving.", [("", reading.draining)])
    add("engine_up", "gauge", "1 while the engine's process runs.", [("", reading.engine_up)])
    if reading.ready_after is not None:
        add(
            "ready_after_seconds",
            "gauge",
            "From the launcher's start to the first time it was ready.",
            [("", reading.ready_after)],
        )
    if reading.probe_latency is not None:
        add(
            "idle_probe_latency_seconds",
            "gauge",
            "Duration of the latest idle probe, passed or failed.",
            [("", reading.probe_latency)],
        )
    add(
        "idle_probe_failures_in_row",
        "gauge",
        "Idle probes failed since the last one that passed.",
        [("", reading.probe_failures_in_row)],
    )
    add(
        "idle_probes_total",
        "counter",
        "Idle probes by result; progress = timed out, but the engine's counters moved.",
        [
            ('{result="token"}', reading.probes_passed),
            ('{result="progress"}', reading.probes_passed_by_progress),
            ('{result="failed"}', reading.probes_failed),
        ],
    )
    add(
        "verified_bytes_total",
        "counter",
        "Bytes of the model's files whose checksum was computed.",
        [("", reading.verified_bytes)],
    )
    return "\n".join(lines) + "\n"
