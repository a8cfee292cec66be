"""Arrival seconds on their way into the gate's state: evidence moved, decisions taken.

The only mutable thing of the gate, alive for one call of ``Gate.take``. It decides when a metric
rolls back; ``gate`` says which tests see which counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.evalue import Cell
from llmrollouts.analysis.gateplan import Limit, MetricRuns, Process, band_name
from llmrollouts.analysis.histogram import Histogram
from llmrollouts.analysis.ksband import ks_excess, ks_gap
from llmrollouts.analysis.ledger import GateState, History, Run
from llmrollouts.analysis.proof import Proof
from llmrollouts.analysis.standout import Recent

# Not needed for validity: nobody would believe a rollback for latency on fewer requests.
MIN_CANARY_REQUESTS: Final = 20
TOLERATED_STALL: Final = 5  # ticks; the cap of the e-process tolerates as many
EMPTY: Final = Cell(0, 0, 0, 0)
_LEAST: Final = 1e-300


@dataclass(frozen=True)
class Rules:
    """levels, tests: by metric; of the whole stage."""

    levels: Mapping[str, float]
    tests: Mapping[str, MetricRuns]


class Tick:
    """A state that is being changed. ``begin`` each second, ``close`` once."""

    def __init__(self, rules: Rules, state: GateState) -> None:
        self.rules = rules
        self.second = 0
        self.closed = 0  # at whose end the second was complete
        self.runs: dict[str, Run] = dict(state.runs)
        self.totals: dict[str, tuple[Cell, ...]] = dict(state.totals)
        self.proof: Proof = state.proof
        self.decided: dict[str, int] = dict(state.decided)
        self.histograms: dict[str, Histogram] = dict(state.histograms)
        self.history: dict[str, History] = dict(state.history)
        self.recent: dict[str, Recent] = dict(state.recent)
        self._stage = state.stage
        self._taken: dict[str, int] = dict(state.taken)
        self._stale = state.stale

    def begin(self, key: str, second: int, lag: float) -> bool:
        """The next second of stream ``key``; False: it was taken already, or a later one."""
        last = self._taken.get(key)
        if last is not None and second <= last:
            self._stale += 1
            return False
        self._taken[key] = self.second = second
        self.closed = second + 1 + math.ceil(lag)
        return True

    def close(self) -> GateState:
        return GateState(
            self._stage,
            self.runs,
            self.totals,
            self.proof,
            self._taken,
            self._stale,
            self.decided,
            self.histograms,
            self.history,
            self.recent,
        )

    def count(self, metric: str, places: Sequence[int], cells: Sequence[Cell]) -> None:
        """Add to the totals of some thresholds of a metric: ``cells[i]`` to ``places[i]``."""
        before = self.totals.get(metric, ())
        sums = [*before, *(EMPTY,) * (max(places) + 1 - len(before))]
        for place, cell in zip(places, cells, strict=True):
            sums[place] += cell
        self.totals[metric] = tuple(sums)

    def move(
        self,
        process: Process,
        gains: Sequence[Sequence[float]],
        *,
        guarded: bool,
        asked: bool = True,
    ) -> None:
        """One e-process over one second; it decides when it reaches its level."""
        before = self.runs[process.run]
        wealth = process.rule.gain(before.wealth, gains, asked=asked)
        log_e = _log(process.rule.evidence(wealth)) + process.log_weight
        self.runs[process.run] = before.move(wealth, log_e, self.second)
        self._decide(process.metric, log_e, guarded=guarded)

    def move_limit(
        self, limit: Limit, cell: Cell, gains: Sequence[float], *, guarded: bool
    ) -> None:
        """Both tests of a hard limit; it decides when both are at the level at once."""
        self.count(limit.metric, (0,), (cell,))
        absolute, relative = limit.runs
        before = self.runs[absolute]
        wealth = limit.absolute.tick(before.wealth, cell.canary_over, cell.canary_total)
        log_e = _log(limit.absolute.evidence(wealth))
        self.runs[absolute] = before.move(wealth, log_e, self.second)
        before = self.runs[relative]
        wealth = limit.relative.gain(before.wealth, [gains])
        worse = _log(limit.relative.evidence(wealth))
        self.runs[relative] = before.move(wealth, worse, self.second)
        self._decide(limit.metric, min(log_e, worse), guarded=guarded)
        self.note(limit.metric)

    def _decide(self, metric: str, log_e: float, *, guarded: bool) -> None:
        if metric in self.decided or log_e < -math.log(self.rules.levels[metric]):
            return
        seen = max((cell.canary_total for cell in self.totals[metric]), default=0)
        if not guarded or seen >= MIN_CANARY_REQUESTS:
            self.decided[metric] = self.closed

    def compare_bands(self, metric: Metric) -> None:
        """The slow second trigger: the canary's band lies wholly beyond stable's.

        The band takes requests to be independent, which those of one stall are not. So it must
        lie apart by more than a stall that the e-process tolerates can have done.
        """
        name = band_name(metric)
        if name in self.decided:
            return
        runs = self.rules.tests[metric.value].runs
        taken = [self.runs[run].wealth.ticks for run in runs]
        shortest = min(ticks for ticks in taken if ticks)  # of E2E, thresholds differ in it
        tolerated = TOLERATED_STALL / shortest
        cells = self.totals[metric.value]
        # The bands only take from the gap: without one their widths need not be known.
        if ks_gap(cells) > tolerated and ks_excess(cells, self.rules.levels[name]) > tolerated:
            self.decided[name] = self.closed

    def note(self, metric: str) -> None:
        """A point of the plot of ln E."""
        log_e = self.rules.tests[metric].log_e(self.runs)
        self.history[metric] = self.history.get(metric, History()).add(self.second, log_e)


def _log(evidence: float) -> float:
    """ln E; a stage that is held for days can lose all of it to rounding."""
    return math.log(max(evidence, _LEAST))
