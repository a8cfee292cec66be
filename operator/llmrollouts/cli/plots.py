"""``--plot FILE.png``: latencies of both arms and the evidence over time, as a picture.

matplotlib is large and only people who want a picture need it, so it is an extra of the package.
Decides nothing. Called by `replay` and `explain`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.gate import Gate, GateState
from llmrollouts.analysis.grid import BOUNDS, OVERFLOW
from llmrollouts.analysis.histogram import Histogram
from llmrollouts.analysis.stage import Stage
from llmrollouts.cli.charts import say_second
from llmrollouts.cli.failure import Failure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_evidence(path: Path, stage: Stage, state: GateState, title: str) -> None:
    """Write a picture to ``path``. Raises Failure when matplotlib is missing or the file cannot
    be written."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra that may be missing
    except ImportError as missing:
        raise Failure(
            "--plot needs matplotlib, which is not installed.",
            "Install it with: pip install 'llm-rollouts[plot]'",
        ) from missing
    metrics = [m for m in (Metric.TTFT, Metric.TPOT, Metric.E2E) if m.value in state.histograms]
    figure = Figure(figsize=(9, 3 * (len(metrics) + 1)), layout="constrained")
    axes = figure.subplots(len(metrics) + 1, 1, squeeze=False)[:, 0]
    for metric, axis in zip(metrics, axes[:-1], strict=True):
        _plot_latency(axis, metric, stage, state.histograms[metric.value])
    _plot_history(axes[-1], stage, state)
    figure.suptitle(title)
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as problem:
        raise Failure(f"{path} cannot be written: {problem.strerror}") from problem


def _plot_latency(axis: Axes, metric: Metric, stage: Stage, both: Histogram) -> None:
    """The part of the requests beyond each latency: where the arms part, and how far in the
    tail."""
    for arm, counts, colour in (
        ("stable", both.control, "tab:green"),
        ("canary", both.canary, "tab:blue"),
    ):
        total = sum(counts.values())
        buckets = sorted(bucket for bucket in counts if bucket < OVERFLOW)
        beyond = 1 - np.cumsum([counts[bucket] for bucket in buckets]) / max(1, total)
        seconds = [BOUNDS[bucket] for bucket in buckets]
        axis.step(
            seconds, np.maximum(beyond, 0.5 / max(1, total)), where="post", color=colour,
            label=f"{arm}, {total:,} requests",
        )  # fmt: skip
    places = stage.thresholds.get(metric)
    for bound in places.control_bounds if places is not None else ():
        axis.axvline(BOUNDS[bound], color="0.85", linewidth=0.8, zorder=0)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel(f"{metric.value}, seconds")
    axis.set_ylabel("part of requests beyond")
    axis.legend(loc="lower left")


def _plot_history(axis: Axes, stage: Stage, state: GateState) -> None:
    levels = Gate(stage).levels
    drawn = {n: h.points for n, h in state.history.items() if h.points and n in levels}
    begin = min((points[0][0] for points in drawn.values()), default=0)
    for name, points in drawn.items():
        seconds, values = (np.array(column) for column in zip(*points, strict=True))
        needed = -math.log(levels[name])
        axis.plot(seconds - begin, values / needed, label=name, linewidth=1.2)
    axis.axhline(1.0, color="tab:red", linewidth=1, label="decides")
    axis.set_ylim(bottom=-1.0)
    axis.set_xlabel(f"arrivals, seconds after {say_second(begin)}")
    axis.set_ylabel("evidence, part of what is needed (log)")
    axis.legend(loc="upper left", ncols=3, fontsize="small")
