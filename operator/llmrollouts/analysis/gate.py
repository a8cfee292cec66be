"""The canary gate: seconds of both arms in, one judgement out.

Theory of operation. A stage (``stage``) fixes what is compared and at which level. Each delivered
second of each stream moves the tests that read this stream (``gateplan``) and nothing else:

    latency   e-processes at stable's p50 … p99.9, the canary allowed a margin more   -> ROLL_BACK
              the Kolmogorov-Smirnov band over the same counts, a slow second opinion -> ROLL_BACK
              the proof at p50, p95, p99 that the canary is no worse                  -> proven
    outcomes  e-processes on failures, refusals and failed connections                -> ROLL_BACK
    limits    over the limit, and worse than stable                                   -> ROLL_BACK
              over the limit alone                                                    -> FREEZE

A metric rolls back when its evidence reaches 1 / (its share of the stage's level), which a good
canary ever makes it do with at most that chance. Once it has, it stays so for the stage. A second
that was not delivered is simply not taken; one that comes twice or too late is ignored and
counted. ``Gate`` has no state: it is built anew from the stage after a restart, and carries on
from the stored ``GateState``. The operator, ``replay`` and the simulations all use this class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from llmrollouts.analysis.counts import Counts, LatencySecond, Metric, OutcomeSecond
from llmrollouts.analysis.evalue import Cell, log_e_rows
from llmrollouts.analysis.gateplan import (
    REFUSALS,
    LatencyPlan,
    Limit,
    OutcomePlan,
    Process,
    ProofPlace,
    band_name,
    group_runs,
    plan_latency,
    plan_outcomes,
    split_level,
)
from llmrollouts.analysis.histogram import Histogram
from llmrollouts.analysis.judgement import Judgement
from llmrollouts.analysis.ksband import ks_excess
from llmrollouts.analysis.ledger import GateState, History, Run
from llmrollouts.analysis.noninferiority import PROOF_LOG_BETS
from llmrollouts.analysis.proof import Proof
from llmrollouts.analysis.stage import Stage
from llmrollouts.analysis.verdict import make_judgement

__all__ = ["Gate", "GateState", "start_state"]

# Not needed for validity: nobody would believe a rollback for latency on fewer requests.
MIN_CANARY_REQUESTS: Final = 20
TOLERATED_STALL: Final = 5  # ticks; the cap of the e-process tolerates as many
FIRST_BAND_TICK: Final = 30
_EMPTY: Final = Cell(0, 0, 0, 0)


def start_state(stage: Stage, proof: Proof | None = None) -> GateState:
    """The state before the first second; ``proof``: of the earlier stages of this attempt."""
    runs: dict[str, Run] = {}
    plans: list[LatencyPlan | OutcomePlan] = [*plan_latency(stage).values()]
    for plan in (*plans, *plan_outcomes(stage).values()):
        for process in plan.processes:
            runs[process.run] = Run(process.rule.start(), process.log_weight, process.log_weight)
        for limit in plan.limits:
            absolute, relative = limit.runs
            runs[absolute] = Run(limit.absolute.start())
            runs[relative] = Run(limit.relative.start())
    return GateState(stage.name, runs, {}, proof or Proof())


@dataclass
class _Draft:
    """The parts of a state that one second changes, while it is taken in."""

    second: int
    closed: int  # the second at whose end this tick was complete
    runs: dict[str, Run]
    totals: dict[str, tuple[Cell, ...]]
    decided: dict[str, int]
    history: dict[str, History]


class Gate:
    """The rule of one stage. All methods are pure and raise ValueError for a second or a state
    that does not belong to the stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.levels: Mapping[str, float] = split_level(stage)
        self._needed = {name: -math.log(level) for name, level in self.levels.items()}
        self._latency = plan_latency(stage)
        self._outcomes = plan_outcomes(stage)
        self._tests = group_runs((*self._latency.values(), *self._outcomes.values()))

    def take_latency(self, state: GateState, second: LatencySecond) -> GateState:
        """Take in one arrival second of one latency stream."""
        plan = self._latency.get(second.stream)
        if plan is None:
            raise ValueError(f"the stage {self.stage.name} does not read {second.stream}")
        key = f"{second.stream.metric.value}@{second.stream.lag:g}"
        draft = self._open(state, key, second.second, second.stream.lag)
        if draft is None:
            return replace(state, stale=state.stale + 1)
        cells = _threshold_cells(plan, second)
        proof = self._tick_latency(draft, plan, cells, second, state.proof)
        histograms = state.histograms
        if plan.draws:
            name = plan.metric.value
            drawn = histograms.get(name, Histogram()).add(second.canary, second.control)
            histograms = {**histograms, name: drawn}
        if plan.notes:
            self._note(draft, plan.metric.value)
        return self._close(state, draft, key, proof, histograms)

    def take_outcomes(self, state: GateState, second: OutcomeSecond) -> GateState:
        """Take in one arrival second of ends; lag 0: the gateway's own counts."""
        plan = self._outcomes.get(second.lag)
        if plan is None:
            raise ValueError(f"the stage {self.stage.name} reads no ends at {second.lag:g} s")
        key = f"outcomes@{second.lag:g}"
        draft = self._open(state, key, second.second, second.lag)
        if draft is None:
            return replace(state, stale=state.stale + 1)
        self._tick_outcomes(draft, plan, second)
        return self._close(state, draft, key, state.proof, state.histograms)

    def judge(self, state: GateState) -> Judgement:
        """The verdict of the state as it is; needs no new second."""
        if state.stage != self.stage.name:
            raise ValueError(f"a state of {state.stage} is no state of {self.stage.name}")
        return make_judgement(self.stage, self.levels, self._tests, state)

    def _open(self, state: GateState, key: str, second: int, lag: float) -> _Draft | None:
        """None: this second was taken already, or a later one."""
        if state.stage != self.stage.name:
            raise ValueError(f"a state of {state.stage} is no state of {self.stage.name}")
        last = state.taken.get(key)
        if last is not None and second <= last:
            return None
        return _Draft(
            second,
            second + 1 + math.ceil(lag),
            dict(state.runs),
            dict(state.totals),
            dict(state.decided),
            dict(state.history),
        )

    def _close(
        self,
        state: GateState,
        draft: _Draft,
        key: str,
        proof: Proof,
        histograms: Mapping[str, Histogram],
    ) -> GateState:
        return GateState(
            state.stage,
            draft.runs,
            draft.totals,
            proof,
            {**state.taken, key: draft.second},
            state.stale,
            draft.decided,
            histograms,
            draft.history,
        )

    def _tick_latency(
        self,
        draft: _Draft,
        plan: LatencyPlan,
        cells: Sequence[Cell],
        second: LatencySecond,
        proof: Proof,
    ) -> Proof:
        proofs = [place for place in plan.proofs if not proof.accepted(place.key)]
        proof_cells = [_proof_cell(place, second) for place in proofs]
        limit_cells = [_limit_cell(limit, second) for limit in plan.limits]
        # All tests of the second in one pass over arrays.
        asked: list[Cell] = []
        bets: list[tuple[float, ...]] = []
        for process in plan.processes:
            for number, (_, _, logs) in zip(process.thresholds, process.rule.groups, strict=True):
                asked.append(cells[number])
                bets.append(logs)
        for limit, cell in zip(plan.limits, limit_cells, strict=True):
            asked.append(cell)
            bets.append(limit.relative.groups[0][2])
        asked += proof_cells
        bets += [PROOF_LOG_BETS] * len(proofs)
        rows = iter(log_e_rows(asked, bets))

        for process in plan.processes:
            gains = [next(rows) for _ in process.thresholds]
            self._add_totals(draft, process.metric, plan, process.thresholds, cells)
            self._move(draft, process, gains, guarded=True)
        if plan.processes:
            self._compare_bands(draft, plan.metric)
        for limit, cell in zip(plan.limits, limit_cells, strict=True):
            self._move_limit(draft, limit, cell, next(rows), guarded=True)
        for place, cell in zip(proofs, proof_cells, strict=True):
            proof = proof.take(place.key, cell.canary_total, next(rows), self.stage.policy.beta)
        return proof

    def _tick_outcomes(self, draft: _Draft, plan: OutcomePlan, second: OutcomeSecond) -> None:
        canary, control = second.canary, second.control
        failed = Cell(canary.failed, canary.total, control.failed, control.total)
        refused = Cell(canary.refused, canary.total, control.refused, control.total)
        for process in plan.processes:
            cell = refused if process.run == REFUSALS else failed
            before = draft.totals.get(process.metric, ())
            sums = list(before) + [_EMPTY] * (process.thresholds[0] + 1 - len(before))
            sums[process.thresholds[0]] += cell
            draft.totals[process.metric] = tuple(sums)
            logs = process.rule.groups[0][2]
            self._move(draft, process, log_e_rows([cell], [logs]), guarded=False)
            if process.thresholds[0] == 0:
                self._note(draft, process.metric)
        for limit in plan.limits:
            gains = log_e_rows([failed], [limit.relative.groups[0][2]])[0]
            self._move_limit(draft, limit, failed, gains, guarded=False)

    def _move(
        self, draft: _Draft, process: Process, gains: Sequence[Sequence[float]], *, guarded: bool
    ) -> None:
        """One e-process over one second; it decides when it reaches its level."""
        before = draft.runs[process.run]
        wealth = process.rule.gain(before.wealth, gains)
        log_e = math.log(process.rule.evidence(wealth)) + process.log_weight
        draft.runs[process.run] = before.move(wealth, log_e, draft.second)
        self._decide(draft, process.metric, log_e, guarded=guarded)

    def _move_limit(
        self, draft: _Draft, limit: Limit, cell: Cell, gains: Sequence[float], *, guarded: bool
    ) -> None:
        """Both tests of a hard limit; it decides when both are at the level at once."""
        draft.totals[limit.metric] = (draft.totals.get(limit.metric, (_EMPTY,))[0] + cell,)
        absolute, relative = limit.runs
        before = draft.runs[absolute]
        wealth = limit.absolute.tick(before.wealth, cell.canary_over, cell.canary_total)
        log_e = math.log(limit.absolute.evidence(wealth))
        draft.runs[absolute] = before.move(wealth, log_e, draft.second)
        before = draft.runs[relative]
        wealth = limit.relative.gain(before.wealth, [gains])
        worse = math.log(limit.relative.evidence(wealth))
        draft.runs[relative] = before.move(wealth, worse, draft.second)
        self._decide(draft, limit.metric, min(log_e, worse), guarded=guarded)
        self._note(draft, limit.metric)

    def _decide(self, draft: _Draft, metric: str, log_e: float, *, guarded: bool) -> None:
        if metric in draft.decided or log_e < self._needed[metric]:
            return
        seen = max((cell.canary_total for cell in draft.totals[metric]), default=0)
        if not guarded or seen >= MIN_CANARY_REQUESTS:
            draft.decided[metric] = draft.closed

    def _compare_bands(self, draft: _Draft, metric: Metric) -> None:
        """The slow second trigger: the canary's band lies wholly beyond stable's.

        The band takes requests to be independent, which those of one stall are not. So it must
        lie apart by more than a stall that the e-process tolerates can have done.
        """
        name = band_name(metric)
        run = draft.runs[self._tests[metric.value].runs[0]]
        if name in draft.decided or run.wealth.ticks < FIRST_BAND_TICK:
            return
        excess = ks_excess(draft.totals[metric.value], self.levels[name])
        if excess > TOLERATED_STALL / run.wealth.ticks:
            draft.decided[name] = draft.closed

    def _add_totals(
        self,
        draft: _Draft,
        metric: str,
        plan: LatencyPlan,
        places: Sequence[int],
        cells: Sequence[Cell],
    ) -> None:
        sums = list(draft.totals.get(metric, (_EMPTY,) * len(plan.bounds)))
        for place in places:
            sums[place] += cells[place]
        draft.totals[metric] = tuple(sums)

    def _note(self, draft: _Draft, metric: str) -> None:
        """A point of the plot of ln E."""
        log_e = self._tests[metric].log_e(draft.runs)
        draft.history[metric] = draft.history.get(metric, History()).add(draft.second, log_e)


def _threshold_cells(plan: LatencyPlan, second: LatencySecond) -> list[Cell]:
    """Both arms at every threshold of the metric, each at its own bound."""
    canary = second.canary.tally(plan.canary_bounds)
    control = second.control.tally(plan.bounds)
    return [Cell(*ours, *theirs) for ours, theirs in zip(canary, control, strict=True)]


def _proof_cell(place: ProofPlace, second: LatencySecond) -> Cell:
    """The canary at margin times x, control at x; exact counts where the worker took them."""
    over, total = _beyond(second.canary, place.canary_exact, place.canary_bound)
    control_over, control_total = _beyond(second.control, place.exact, place.bound)
    return Cell(over, total, control_over, control_total)


def _limit_cell(limit: Limit, second: LatencySecond) -> Cell:
    """Both arms at the limit itself."""
    over, total = _beyond(second.canary, limit.exact, limit.bound)
    control_over, control_total = _beyond(second.control, limit.exact, limit.bound)
    return Cell(over, total, control_over, control_total)


def _beyond(counts: Counts, exact: int, bound: int) -> tuple[int, int]:
    """Counted exactly, or at the bucket that stands in for the value."""
    return counts.beyond[exact] if counts.beyond else counts.exceeding(bound)
