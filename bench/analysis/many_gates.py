"""The gate over many simulated runs at once: the same tests, levels and bets, as arrays.

Laid out from the gate's own plan of a stage (``gateplan``), so weights, lags and caps are those of
the product; a test feeds both the same seconds and compares the second at which each decides. What
it leaves out: hard limits and the wording of findings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import xlogy

from llmrollouts.analysis.burst import LONGEST, QUIET, least_won
from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.eprocess import MOST_WEALTH, QUANTILES, EProcess
from llmrollouts.analysis.evalue import FloatArray
from llmrollouts.analysis.evalues import IntArray, log_e_many
from llmrollouts.analysis.gate import Gate
from llmrollouts.analysis.gateplan import band_name, plan_latency, plan_outcomes
from llmrollouts.analysis.ksband import band_constant
from llmrollouts.analysis.noninferiority import PROOF_LOG_BETS
from llmrollouts.analysis.stage import Stage
from llmrollouts.analysis.standout import LONGEST as LONGEST_ALONE
from llmrollouts.analysis.standout import WINDOW, odds_of
from llmrollouts.analysis.tick import MIN_CANARY_REQUESTS, TOLERATED_STALL
from llmrollouts.analysis.trace import BoolArray

_FIRST = 20  # the band starts at this many requests


@dataclass(frozen=True)
class Outcomes:
    """decided: for each metric the second at whose end it decided, shape (runs,), inf: never;
    proven: the second at which every quantile was accepted."""

    decided: Mapping[str, FloatArray]
    proven: FloatArray

    @property
    def first(self) -> FloatArray:
        """When the gate rolled back, whatever the metric."""
        return np.asarray(np.min(np.stack(list(self.decided.values())), axis=0))


@dataclass(frozen=True)
class _Row:
    """One e-process: which cells it reads, its rule and what it serves."""

    metric: str
    cells: str
    thresholds: tuple[int, ...]
    rule: EProcess
    log_weight: float
    lag: float
    guarded: bool


class ManyGates:
    """The rule of one stage for many runs. Cells: arrays of shape (runs, seconds, places, 4), rows
    as in ``evalue.Cell``, by metric; of failures and refusals (one place) by "errors",
    "refusals", "connections"; of the proof by "proof:<metric>". Of several canary workers, what
    each adds to the cells is in "workers:<metric>": (runs, seconds, places, workers, 2)."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.levels: Mapping[str, float] = Gate(stage).levels
        self._rows = []
        for stream, latency in plan_latency(stage).items():
            self._rows += [
                _Row(p.metric, p.metric, p.thresholds, p.rule, p.log_weight, stream.lag, True)
                for p in latency.processes
            ]
        for lag, ends in plan_outcomes(stage).items():
            self._rows += [
                _Row(p.metric, p.metric, (0,), p.rule, p.log_weight, lag, False)
                for p in ends.processes
            ]

    def run(self, cells: Mapping[str, IntArray]) -> Outcomes:
        """All seconds of all runs."""
        runs = next(iter(cells.values())).shape[0]
        decided = {name: np.full(runs, np.inf) for name in self.levels}
        for row in self._rows:
            if row.cells in cells:
                when = self._cross(row, cells[row.cells], cells.get(f"workers:{row.cells}"))
                decided[row.metric] = np.minimum(decided[row.metric], when)
        for metric, places in self.stage.thresholds.items():
            lags = np.array(places.lags)
            when = self._part_bands(cells[metric.value], lags, self.levels[band_name(metric)])
            decided[band_name(metric)] = when
        return Outcomes(decided, self.prove(cells))

    def decide(self, cells: Mapping[str, IntArray], metric: Metric) -> FloatArray:
        """When one latency metric alone decided."""
        rows = [row for row in self._rows if row.metric == metric.value]
        workers = cells.get(f"workers:{metric.value}")
        found = [self._cross(row, cells[row.cells], workers) for row in rows]
        return np.asarray(np.min(found, axis=0))

    def _cross(self, row: _Row, cells: IntArray, workers: IntArray | None) -> FloatArray:
        """The second at whose end one e-process reached its level."""
        runs, seconds = cells.shape[:2]
        rule = row.rule
        gains = np.empty((runs, seconds, len(rule.bets)))
        for place, (_, bets, logs) in zip(row.thresholds, rule.groups, strict=True):
            here, log_bets = cells[:, :, place], np.array(logs)
            paid = unique_gains(here, log_bets, rule.cap)
            if workers is not None:
                own = workers[:, :, place]
                odds = odds_of(QUANTILES[place])
                paid = leave_out_many(paid, here, own, log_bets, odds, rule.cap)
            gains[:, :, list(bets)] = paid
        needed = math.exp(-math.log(self.levels[row.metric]) - row.log_weight)
        seen = np.cumsum(cells[:, :, list(row.thresholds), 1], axis=1).max(axis=2)
        enough = seen >= MIN_CANARY_REQUESTS if row.guarded else np.ones_like(seen, dtype=bool)
        asked = cells[:, :, list(row.thresholds), 1].max(axis=2) > 0
        wealth = np.full((runs, len(rule.bets)), rule.start_weight)
        bursts = Bursts(wealth.shape, rule.cap)
        when = np.full(runs, np.inf)
        for second in range(seconds):
            gain, before = gains[:, second], wealth + rule.starts.fresh(second + 1)
            wealth = np.minimum(before * np.exp(gain), MOST_WEALTH)
            if rule.forgives:
                wealth = bursts.follow(gain, before, wealth, asked[:, second])
            reached = wealth.mean(axis=1) + rule.starts.unspent(second + 1) >= needed
            when[reached & enough[:, second] & np.isinf(when)] = second + 1 + math.ceil(row.lag)
        return when

    def _part_bands(self, cells: IntArray, lags: FloatArray, level: float) -> FloatArray:
        """The second at whose end a threshold's bands lay apart, by more than a tolerated stall
        can have done."""
        sums = np.cumsum(cells, axis=1)
        canary, control = sums[..., 1], sums[..., 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = sums[..., 0] / canary - sums[..., 2] / control
            excess = gap - _width(canary, 0.9 * level) - _width(control, 0.1 * level)
        seen = (canary >= _FIRST) & (control >= _FIRST)
        excess = np.where(seen, excess, -np.inf)
        ages = np.ceil(lags).astype(int)
        moments = np.arange(1, cells.shape[1] + int(ages.max()) + 1)
        # What each threshold has taken in by each moment; the shortest of those that began.
        taken = np.clip(moments[:, None] - ages, 0, cells.shape[1])
        shortest = np.where(taken > 0, taken, np.iinfo(np.int64).max).min(axis=1)
        loudest = np.full((cells.shape[0], len(moments)), -np.inf)
        for place in range(len(ages)):
            began = taken[:, place] > 0
            here = excess[:, taken[began, place] - 1, place]
            loudest[:, began] = np.maximum(loudest[:, began], here)
        apart = loudest > TOLERATED_STALL / shortest
        return np.where(apart.any(axis=1), moments[apart.argmax(axis=1)].astype(float), np.inf)

    def prove(self, cells: Mapping[str, IntArray]) -> FloatArray:
        """The second at which all quantiles of all metrics were accepted; inf: never."""
        runs = next(iter(cells.values())).shape[0]
        latest = np.zeros(runs)
        logs = np.array(PROOF_LOG_BETS)
        for metric, places in self.stage.thresholds.items():
            table = cells.get(f"proof:{metric.value}")
            if table is None:
                return np.full(runs, np.inf)
            for quantile, lag in enumerate(places.proof_lags):
                grown = np.cumsum(unique_gains(table[:, :, quantile], logs, np.inf), axis=1)
                top = grown.max(axis=2)
                mean = top + np.log(np.exp(grown - top[..., None]).mean(axis=2))
                hit = mean >= -math.log(self.stage.policy.beta)
                when = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1.0 + math.ceil(lag), np.inf)
                latest = np.maximum(latest, when)
        return latest


class Bursts:
    """``burst.follow_burst`` for all bets of all runs."""

    def __init__(self, shape: tuple[int, ...], cap: float) -> None:
        """shape: (runs, bets)."""
        self._seconds, self._quiet = (np.zeros(shape, dtype=int) for _ in range(2))
        self._won, self._before = (np.zeros(shape) for _ in range(2))
        self._least = np.array([least_won(seconds, cap) for seconds in range(LONGEST + 1)])

    def follow(
        self, gain: FloatArray, before: FloatArray, wealth: FloatArray, asked: BoolArray
    ) -> FloatArray:
        """The wealth after one second, with ended bursts taken back."""
        here = asked[:, None]
        rising, quiet = here & (gain > 0), here & (gain <= 0) & (self._seconds > 0)
        self._before = np.where(rising & (self._seconds == 0), before, self._before)
        self._seconds += rising
        self._won += np.where(rising, gain, 0.0)
        self._quiet = np.where(rising, 0, self._quiet + quiet)
        ended = self._quiet >= QUIET
        least = self._least[np.minimum(self._seconds, len(self._least) - 1)]
        taken = ended & (self._seconds <= LONGEST) & (self._won >= least)
        wealth = np.where(taken, np.minimum(wealth, self._before), wealth)
        for state in (self._seconds, self._won, self._quiet):
            state[ended] = 0
        return wealth


def leave_out_many(
    gains: FloatArray,
    cells: IntArray,
    workers: IntArray,
    logs: FloatArray,
    odds: float,
    cap: float,
) -> FloatArray:
    """``standout.leave_out`` for all runs, of one threshold. gains: shape (runs, seconds, bets);
    workers: (runs, seconds, workers, 2)."""
    alone, seconds = _stand_out(workers, odds), cells.shape[1]
    paid, least = gains.copy(), gains
    for later in range(WINDOW):
        # Who is left out of each second so many seconds later.
        left = np.zeros_like(alone)
        left[:, : seconds - later] = alone[:, later:]
        touched = left.any(axis=2)
        if touched.any():
            without = cells[touched].astype(np.int64)
            without[:, :2] -= (workers[touched] * left[touched][:, :, None]).sum(axis=1)
            now = least.copy()
            now[touched] = np.minimum(now[touched], log_e_many(without, logs, cap))
            paid[:, later:] += (now - least)[:, : seconds - later]
            least = now
    return paid


def _stand_out(workers: IntArray, odds: float) -> BoolArray:
    """Who is left out in each second; shape (runs, seconds, workers)."""
    sums = np.cumsum(workers, axis=1, dtype=np.int64)
    sums[:, WINDOW:] -= sums[:, :-WINDOW].copy()
    own, requests = sums[..., 0], sums[..., 1]
    over, total = (each.sum(axis=2, keepdims=True) for each in (own, requests))
    asked = (requests > 0).sum(axis=2, keepdims=True)
    apart = _log_likelihood(own, requests) + _log_likelihood(over - own, total - requests)
    needed = _log_likelihood(over, total) + np.log(odds * np.maximum(asked, 1)) - 1e-9
    found = (asked > 1) & (own * total > over * requests) & (apart >= needed)
    found &= 2 * found.sum(axis=2, keepdims=True) <= asked
    streak = np.zeros(found.shape[::2], dtype=int)
    alone: BoolArray = np.zeros(found.shape, dtype=np.bool_)
    for second in range(found.shape[1]):
        streak = np.where(found[:, second], streak + 1, 0)
        alone[:, second] = found[:, second] & (streak <= LONGEST_ALONE)
    return alone


def _log_likelihood(over: IntArray, total: IntArray) -> FloatArray:
    most = np.maximum(total, 1)
    return np.asarray(xlogy(over, over / most) + xlogy(total - over, (total - over) / most))


def unique_gains(cells: IntArray, logs: FloatArray, cap: float) -> FloatArray:
    """ln e of every second of every run; shape (runs, seconds, bets). Small counts repeat, so
    each combination is computed once."""
    flat = cells.reshape(-1, 4).astype(np.int64)
    size = int(flat.max(initial=0)) + 1
    keys = ((flat[:, 0] * size + flat[:, 1]) * size + flat[:, 2]) * size + flat[:, 3]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    gains = log_e_many(flat[first], logs, cap)
    return gains[inverse].reshape(*cells.shape[:2], len(logs))


def _width(requests: IntArray, level: float) -> FloatArray:
    """``ksband.band_width`` over an array; infinite below its first request."""
    n = np.maximum(requests, 1)
    inside = np.log1p(np.log(np.maximum(n / _FIRST, 1.0))) + band_constant(level)
    return np.where(requests >= _FIRST, 0.85 * np.sqrt(inside / n), np.inf)
