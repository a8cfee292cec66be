"""The launcher's own few metrics, in Prometheus text form. One place for their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

from . import VERSION
from .sampler import Sampler
from .tap.llmrollouts_tap import wire


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


Add = Callable[[str, str, str, Sequence[tuple[str, float]]], None]


def _start_page() -> tuple[list[str], Add]:
    """The lines of a page, and what adds one family of metrics to them."""
    lines: list[str] = []

    def add(name: str, kind: str, text: str, samples: Sequence[tuple[str, float]]) -> None:
        family = f"llmrollouts_launcher_{name}"
        lines.append(f"# HELP {family} {text}")
        lines.append(f"# TYPE {family} {kind}")
        lines.extend(f"{family}{labels} {value:.15g}" for labels, value in samples)

    return lines, add


def render_metrics(reading: Reading) -> str:
    """The page; a value that is not known yet is left out instead of shown as 0."""
    lines, add = _start_page()
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


def render_tap(sampler: Sampler) -> str:
    """What the tap has told since the engine's start."""
    lines, add = _start_page()
    add("tap_up", "gauge", "1 once the tap in the engine was heard.", [("", sampler.heard)])
    add(
        "tap_requests_total",
        "counter",
        "Requests that arrived: users' own, and mirrored copies.",
        [(f'{{kind="{kind}"}}', count) for kind, count in sampler.arrivals.items()],
    )
    add(
        "tap_ends_total",
        "counter",
        "Requests that ended, by how (docs/worker-tap.md).",
        [(f'{{how="{how}"}}', sampler.ends[how]) for how in wire.ENDS.values()],
    )
    add(
        "tap_in_flight",
        "gauge",
        "Requests that have arrived and not ended.",
        [("", sampler.cohorts.in_flight)],
    )
    add("tap_lost_records_total", "counter", "Records that never came.", [("", sampler.lost)])
    add(
        "tap_dropped_requests_total",
        "counter",
        "Requests forgotten, for their age or for want of room.",
        [("", sampler.cohorts.dropped)],
    )
    return "\n".join(lines) + "\n"
