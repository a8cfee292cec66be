"""Small plots for the terminal: latencies of both arms, and the evidence over time.

Drawn with eighths of a character, so that a log or a pipe shows the same. Decides nothing. Called
by `replay` and `explain`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.gate import Gate, GateState
from llmrollouts.analysis.grid import BOUNDS, OVERFLOW
from llmrollouts.analysis.stage import Stage

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
WIDTH: Final = 60
_EPOCH: Final = 1_000_000_000  # seconds: what is above counts from 1970, as the operator does
HEIGHT: Final = 6
_NAMES: Final = {
    Metric.TTFT: "time to first token",
    Metric.TPOT: "time per output token",
    Metric.E2E: "end to end, at equal length",
}


def draw_evidence(stage: Stage, state: GateState) -> RenderableType:
    """ln E of the metrics that came nearest to deciding, and the line at which each decides."""
    levels = Gate(stage).levels
    lines = {
        name: (history.points, -math.log(levels[name]))
        for name, history in state.history.items()
        if history.points and name in levels
    }
    if not lines:
        return Text("No second was compared yet: there is no evidence to draw.", style="dim")
    parts: list[RenderableType] = []
    for name, (points, needed) in sorted(lines.items(), key=_nearness)[:2]:
        first, last = points[0][0], points[-1][0]
        values = _resample([max(0.0, value) for _, value in points], WIDTH)
        parts.append(Text(f"Evidence against the canary, {name} (─ decides)", style="bold"))
        parts.append(_draw_bars(values, needed))
        ends = _between(say_second(first), say_second(last), "arrivals")
        parts.append(Text(ends, style="dim"))
    return Group(*parts)


def say_second(second: int) -> str:
    """An arrival second for people: of a running rollout the time of day, of a trace its own."""
    if second < _EPOCH:
        return f"{second:,} s"
    return f"{datetime.fromtimestamp(second, UTC):%H:%M:%SZ}"


def _nearness(line: tuple[str, tuple[Sequence[tuple[int, float]], float]]) -> float:
    _, (points, needed) = line
    return needed - max(value for _, value in points)


def draw_latencies(state: GateState) -> RenderableType:
    """The distributions of both arms, one above the other on the same logarithmic axis."""
    parts: list[RenderableType] = []
    for metric, name in _NAMES.items():
        both = state.histograms.get(metric.value)
        if both is None or not both.canary or not both.control:
            continue
        filled = [b for b in (*both.canary, *both.control) if b < OVERFLOW]
        if not filled:
            continue
        low, high = max(0, min(filled) - 1), max(filled)
        parts.append(Text(f"{name[:1].upper()}{name[1:]}", style="bold"))
        for arm, counts in (("stable", both.control), ("canary", both.canary)):
            parts.append(_draw_arm(arm, counts, low, high))
        axis = _between(_seconds(BOUNDS[low]), _seconds(BOUNDS[high]), "")
        parts.append(Text(f"{'':8}{axis}", style="dim"))
    if not parts:
        return Text("No latency was compared yet.", style="dim")
    return Group(*parts)


def _draw_arm(arm: str, counts: Mapping[int, int], low: int, high: int) -> Text:
    heights = [0.0] * WIDTH
    for bucket, count in counts.items():
        if bucket < OVERFLOW:
            place = (bucket - low) * WIDTH // (high - low + 1)
            heights[min(WIDTH - 1, max(0, place))] += count
    top = max(heights) or 1.0
    bars = "".join(_BLOCKS[_eighths(height / top, 8, shown=height > 0)] for height in heights)
    line = Text(f"{arm:8}")
    line.append(bars, style="cyan" if arm == "canary" else "green")
    unanswered = counts.get(OVERFLOW, 0)
    total = sum(counts.values())
    line.append(f" {total:,} requests")
    if unanswered:
        line.append(f", {unanswered:,} unanswered", style="red")
    return line


def _draw_bars(values: Sequence[float], needed: float) -> Text:
    """Columns from 0 to a little above ``needed``, whose height has a line of its own."""
    top = needed * (1 + 1 / HEIGHT)
    filled = [_eighths(min(1.0, value / top), 8 * HEIGHT, shown=False) for value in values]
    mark = min(HEIGHT - 1, int(needed / top * HEIGHT))
    drawn = Text()
    for row in reversed(range(HEIGHT)):
        label = "needed" if row == mark else ("1" if row == 0 else "")
        drawn.append(f"{label:>8} ", style="dim")
        for level in filled:
            here = min(8, max(0, level - 8 * row))
            if row == mark and here == 0:
                drawn.append("─", style="red")
            else:
                drawn.append(_BLOCKS[here], style="red" if level >= 8 * mark else "cyan")
        drawn.append("\n" if row else "")
    return drawn


def _eighths(part: float, whole: int, *, shown: bool) -> int:
    return max(1 if shown else 0, round(part * whole))


def _resample(values: Sequence[float], width: int) -> list[float]:
    """At most ``width`` values, each the largest of its group: a peak is never lost."""
    if len(values) <= width:
        return list(values)
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    return [max(values[a:b]) for a, b in pairwise(edges)]


def _between(left: str, right: str, middle: str) -> str:
    room = WIDTH - len(left) - len(right)
    return f"{left}{middle:^{max(1, room)}}{right}"


def _seconds(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
