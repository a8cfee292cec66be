"""The canary gate: seconds of both arms in, one judgement out.

Theory of operation. A stage (``stage``) fixes what is compared and at which level. Each delivered
second of each stream moves the tests that read this stream (``gateplan``) and nothing else:

    latency   e-processes at stable's p50 … p99.9, the canary allowed a margin more   -> ROLL_BACK
              without a canary worker that stalls alone (``standout``)
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

from collections.abc import Iterable, Mapping, Sequence

from llmrollouts.analysis.counts import Counts, LatencySecond, OutcomeSecond, make_cell
from llmrollouts.analysis.evalue import Cell, log_e_rows
from llmrollouts.analysis.gateplan import (
    REFUSALS,
    LatencyPlan,
    Limit,
    OutcomePlan,
    ProofPlace,
    group_runs,
    plan_latency,
    plan_outcomes,
    split_level,
)
from llmrollouts.analysis.histogram import NOTHING_DRAWN, Histogram
from llmrollouts.analysis.judgement import Judgement
from llmrollouts.analysis.ledger import GateState, Run
from llmrollouts.analysis.noninferiority import PROOF_LOG_BETS
from llmrollouts.analysis.proof import Proof
from llmrollouts.analysis.stage import Stage
from llmrollouts.analysis.standout import NOTHING_RECENT, Moment, Shares, leave_out
from llmrollouts.analysis.tick import Rules, Tick
from llmrollouts.analysis.verdict import Standing, make_judgement, read_standing

__all__ = ["Gate", "GateState", "start_state"]


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


class Gate:
    """The rule of one stage. All methods are pure and raise ValueError for a second or a state
    that does not belong to the stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.levels: Mapping[str, float] = split_level(stage)
        self._latency = plan_latency(stage)
        self._outcomes = plan_outcomes(stage)
        tests = group_runs((*self._latency.values(), *self._outcomes.values()))
        self._rules = Rules(self.levels, tests)

    def take(self, state: GateState, seconds: Iterable[LatencySecond | OutcomeSecond]) -> GateState:
        """Take in what became known at one moment, in this order."""
        if state.stage != self.stage.name:
            raise ValueError(f"a state of {state.stage} is no state of {self.stage.name}")
        tick = Tick(self._rules, state)
        for second in seconds:
            if isinstance(second, LatencySecond):
                self._add_latency(tick, second)
            else:
                self._add_outcomes(tick, second)
        return tick.close()

    def take_latency(self, state: GateState, second: LatencySecond) -> GateState:
        """Take in one arrival second of one latency stream."""
        return self.take(state, (second,))

    def take_outcomes(self, state: GateState, second: OutcomeSecond) -> GateState:
        """Take in one arrival second of ends; lag 0: the gateway's own counts."""
        return self.take(state, (second,))

    def judge(self, state: GateState) -> Judgement:
        """The verdict of the state as it is; needs no new second."""
        if state.stage != self.stage.name:
            raise ValueError(f"a state of {state.stage} is no state of {self.stage.name}")
        return make_judgement(self.stage, self.levels, self._rules.tests, state)

    def standing(self, state: GateState) -> Standing:
        """What ``judge`` says, without its words: for whoever asks of every second."""
        return read_standing(self.stage, self.levels, self._rules.tests, state)

    def _add_latency(self, tick: Tick, second: LatencySecond) -> None:
        plan = self._latency.get(second.stream)
        if plan is None:
            raise ValueError(f"the stage {self.stage.name} does not read {second.stream}")
        if not tick.begin(plan.key, second.second, second.stream.lag):
            return
        seen = tick.histograms.get(plan.name, NOTHING_DRAWN)
        self._tick_latency(tick, plan, second, seen)
        if plan.draws:
            tick.histograms[plan.name] = seen.add(second.canary, second.control)
        if plan.notes:
            tick.note(plan.name)

    def _add_outcomes(self, tick: Tick, second: OutcomeSecond) -> None:
        plan = self._outcomes.get(second.lag)
        if plan is None:
            raise ValueError(f"the stage {self.stage.name} reads no ends at {second.lag:g} s")
        if tick.begin(plan.key, second.second, second.lag):
            _tick_outcomes(tick, plan, second)

    def _tick_latency(
        self,
        tick: Tick,
        plan: LatencyPlan,
        second: LatencySecond,
        seen: Histogram,
    ) -> None:
        """``seen``: both arms' requests by bucket, of the earlier seconds of the stage."""
        proof, cells = tick.proof, second.compare(plan.canary_bounds, plan.bounds)
        proofs = [place for place in plan.proofs if not proof.accepted(place.key)]
        if proofs:
            stable = seen.rank_control()
            proofs = [place.follow(stable) or place for place in proofs]
        proof_cells = [_proof_cell(place, second) for place in proofs]
        limit_cells = [_limit_cell(limit, second) for limit in plan.limits]
        # All tests of the second in one pass over arrays.
        asked = [*(cells[number] for number in plan.asks), *limit_cells, *proof_cells]
        found = log_e_rows(asked, plan.bets + (PROOF_LOG_BETS,) * len(proofs))
        compared = len(plan.asks)
        paid = iter(_pay(tick, plan, second, asked[:compared], found[:compared]))
        rows = iter(found[compared:])

        for process in plan.processes:
            gains = [next(paid) for _ in process.thresholds]
            here = [cells[number] for number in process.thresholds]
            tick.count(process.metric, process.thresholds, here)
            present = any(cell.canary_total for cell in here)
            tick.move(process, gains, guarded=True, asked=present)
        if plan.processes:
            tick.compare_bands(plan.metric)
        for limit, cell in zip(plan.limits, limit_cells, strict=True):
            tick.move_limit(limit, cell, next(rows), guarded=True)
        for place, cell in zip(proofs, proof_cells, strict=True):
            proof = proof.take(place.key, cell.canary_total, next(rows), self.stage.policy.beta)
        tick.proof = proof


def _pay(
    tick: Tick,
    plan: LatencyPlan,
    second: LatencySecond,
    cells: Sequence[Cell],
    rows: Sequence[Sequence[float]],
) -> Sequence[Sequence[float]]:
    """What the bets are paid of ``rows``, without the canary workers that stand out alone."""
    recent = tick.recent.get(plan.key, NOTHING_RECENT)
    if not plan.processes or (len(second.workers) < 2 and not recent.moments):
        return rows
    cap = plan.processes[0].rule.cap
    gains = tuple([gain if gain < cap else cap for gain in row] for row in rows)
    workers = {name: _share(plan, counts) for name, counts in second.workers.items()}
    now = Moment(second.second, cells, workers, gains)
    paid, tick.recent[plan.key] = leave_out(recent, now, plan.bets[: len(cells)], plan.odds, cap)
    return paid


def _share(plan: LatencyPlan, counts: Counts) -> Shares:
    """One canary worker at the thresholds that the bets of this stream read."""
    if len(plan.asks) == 1:
        return (counts.exceeding(plan.canary_bounds[plan.asks[0]]),)
    tally = counts.tally(plan.canary_bounds)
    return [tally[number] for number in plan.asks]


def _tick_outcomes(tick: Tick, plan: OutcomePlan, second: OutcomeSecond) -> None:
    canary, control = second.canary, second.control
    failed = Cell(canary.failed, canary.total, control.failed, control.total)
    refused = Cell(canary.refused, canary.total, control.refused, control.total)
    for process in plan.processes:
        cell = refused if process.metric == REFUSALS else failed
        place = process.thresholds[0]
        tick.count(process.metric, (place,), (cell,))
        logs = process.rule.groups[0][2]
        tick.move(process, log_e_rows([cell], [logs]), guarded=False)
        if place == 0:
            tick.note(process.metric)
    for limit in plan.limits:
        gains = log_e_rows([failed], [limit.relative.groups[0][2]])[0]
        tick.move_limit(limit, failed, gains, guarded=False)


def _proof_cell(place: ProofPlace, second: LatencySecond) -> Cell:
    """The canary at margin times x, control at x; exact counts where the worker took them."""
    if place.exact < 0:
        return make_cell(second.canary, second.control, place.canary_bound, place.bound)
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
