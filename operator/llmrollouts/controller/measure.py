"""The measurement of one deployment while a revision is tried: a task that looks once a second.

      load the stored evidence ──> COLLECTING a baseline of stable ──> COMPARING: read, merge, judge
                  ^                        ^                                 |
                  |                        +──── the next stage ─────────────+
                  └── until the API server answers: nothing starts from nothing by mistake

What it says is read by each round (``gates``), and a verdict that changes wakes one at once.
Evidence is stored when a stage begins and every ten seconds (controller/memory says how a stage
begins after a restart). An error of its own is a verdict Error and a new look a second later; it
never stops other deployments.
It decides nothing about the rollout. Started and stopped by controller/gate_engine.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from llmrollouts.analysis.stage import freeze_stage
from llmrollouts.api.reasons import Reason
from llmrollouts.controller import verdicts
from llmrollouts.controller.asking import (
    lack_the_tap,
    none_but_the_tap,
    read_all,
)
from llmrollouts.controller.assignment import Assignment
from llmrollouts.controller.evidence import EvidenceStore
from llmrollouts.controller.memory import Memory
from llmrollouts.controller.power import StepPower
from llmrollouts.controller.rhythm import next_look
from llmrollouts.controller.verdicts import Saying
from llmrollouts.kube.port import KubeError
from llmrollouts.metrics.baseline import BaselineCollector
from llmrollouts.metrics.comparison import Comparison, Conditions, choose_control, without_proof
from llmrollouts.metrics.page import PageError, has_no_tap
from llmrollouts.metrics.placebo import Placebo
from llmrollouts.metrics.port import Query, SampleReader, Source
from llmrollouts.metrics.record import PlaceboResult
from llmrollouts.rollout.observation import Gate
from llmrollouts.traffic.port import TrafficPort

LOG: Final = logging.getLogger(__name__)

SAVE_EVERY: Final = 10.0
# What the last look said is too old after so many seconds: the measurement itself hangs.
SILENT: Final = 5.0
# A baseline is asked of so many stable workers: more would not make it better.
_BASELINE_WORKERS: Final = 16


@dataclass(frozen=True, slots=True)
class Means:
    """What all measurements share. clock: seconds since 1970 that never jump; the reader stamps
    its readings with the same clock. turn: one at a time works out what its step can find."""

    reader: SampleReader
    traffic: TrafficPort
    clock: Callable[[], float]
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))


class Measurement:
    """Of one deployment: ``assign`` what to measure, ``run``, ask for ``gates`` at any time.
    ``nudge`` wakes the deployment's round."""

    def __init__(
        self,
        assignment: Assignment,
        means: Means,
        store: EvidenceStore,
        nudge: Callable[[], None],
    ) -> None:
        self._assigned = assignment
        self._means = means
        self._store = store
        self._nudge = nudge
        self._said: Gate | None = None
        self._looked_at = means.clock()
        self._saved_at = -math.inf
        self._memory = Memory()
        self._collector: BaselineCollector | None = None
        self._failures: dict[str, PageError] = {}
        self._compared: Comparison | None = None
        self._placebo: Placebo | None = None
        self._source: Source = "tap"
        self._power = StepPower(means.turn)

    # What the rounds ask for.

    @property
    def uid(self) -> str:
        return self._assigned.uid

    def assign(self, assignment: Assignment) -> None:
        """What to measure from the next look on."""
        self._assigned = assignment

    def gates(self) -> tuple[Gate, ...]:
        """What is known now; a measurement that hangs is an Error."""
        stage, said = self._assigned.stage, self._said
        if said is None or said.stage != stage:
            waits = verdicts.wait(Reason.GATE_SILENT, "the measurement of this stage begins")
            return (self._make(waits),)
        age = self._means.clock() - self._looked_at
        if age > SILENT:
            told = f"the workers were last looked at {age:.0f}s ago"
            return (self._make(verdicts.error(Reason.GATE_ERROR, told)),)
        return (said,)

    def placebo(self) -> PlaceboResult | None:
        """How often the test fired on stable workers; None: not asked for."""
        if not self._assigned.placebo:
            return None
        past = self._memory.placebo
        now = self._placebo.result() if self._placebo is not None else PlaceboResult()
        return PlaceboResult(past.stages + now.stages, past.firings + now.firings)

    # How it runs.

    async def run(self) -> None:
        """Look once a second, when the workers' seconds close, for ever."""
        clock = self._means.clock
        try:
            while True:
                began = clock()
                await self.look()
                now, compared = clock(), self._compared
                closes = compared.closes_at(now) if compared is not None else None
                await asyncio.sleep(next_look(began, now, closes) - now)
        finally:
            self._power.stop()
            await self._store.stop()

    async def look(self) -> None:
        """One second. Never raises, except when it is cancelled."""
        try:
            await self._look(self._assigned)
        except Exception as problem:
            names = {"llmdeployment": str(self._assigned.key), "error": str(problem)[:300]}
            LOG.exception("Failed to measure", extra=names)
            told = f"the operator met an error of its own, {type(problem).__name__}: see its log"
            self._say(verdicts.error(Reason.GATE_BROKEN, told))

    async def _look(self, assigned: Assignment) -> None:
        try:
            await self._memory.load(self._store, str(assigned.key))
        except KubeError as problem:
            told = f"the stored evidence cannot be read: {str(problem)[:200]}"
            self._say(verdicts.wait(Reason.GATE_ERROR, told))
            return
        if assigned.stage != self._memory.stage:
            self._enter(assigned)
        if self._compared is None:
            await self._collect(assigned)
        if self._compared is not None:
            await self._compare(self._compared, assigned)
        self._save()

    def _enter(self, assigned: Assignment) -> None:
        """Another stage begins, or a stored one goes on."""
        ended = self._compared
        if ended is not None:
            self._memory.placebo = self.placebo() or self._memory.placebo
            self._collector = None  # its baseline is of the time before that stage
        self._placebo = None
        self._compared = self._memory.enter(assigned, ended, self._means.clock())
        # Each stage looks for the tap anew; one that goes on is read as it was.
        self._source = self._compared.source if self._compared is not None else "tap"
        self._saved_at = -math.inf

    # Before a stage: the baseline.

    async def _collect(self, assigned: Assignment) -> None:
        collector = self._collector
        if collector is None:
            collector = self._collector = BaselineCollector(self._means.clock())
        stable = [each for each in assigned.control if each.ready][:_BASELINE_WORKERS]
        self._failures.clear()
        asked = [
            (each.worker, Query(*collector.ask(each.worker.uid), source=self._source))
            for each in stable
        ]
        for worker, answer in await read_all(self._means.reader, asked):
            if isinstance(answer, PageError):
                self._failures[worker.uid] = answer
            elif self._source == "tap" and not answer.page.tap:
                self._failures[worker.uid] = has_no_tap(worker.name)
            else:
                collector.take(worker.uid, answer.page, answer.at)
        if self._source == "tap" and await self._lacks_the_tap(assigned, len(stable)):
            # Both arms are read by the same means, or they are not compared.
            self._source, self._collector, self._memory.baseline = "engine", None, None
            told = "the workers of a revision have no tap: the engines' own histograms are read now"
            self._say(verdicts.wait(Reason.NO_TAP, told))
            return
        missing = self._what_is_missing(assigned, collector, len(stable))
        if missing is not None:
            self._say(missing)
            return
        try:
            self._begin(assigned, collector)
        except ValueError as problem:
            self._say(verdicts.error(Reason.GATE_ERROR, str(problem)))

    async def _lacks_the_tap(self, assigned: Assignment, stable: int) -> bool:
        """Whether one of the two revisions has no tap: then neither is read by it."""
        failures = self._failures.values()
        if stable and len(failures) >= stable and none_but_the_tap(failures):
            return True
        ready = [each.worker for each in assigned.canary if each.ready]
        return await lack_the_tap(self._means.reader, ready[:_BASELINE_WORKERS])

    def _what_is_missing(
        self, assigned: Assignment, collector: BaselineCollector, asked: int
    ) -> Saying | None:
        """Why the comparison cannot begin; None: it can."""
        now = self._means.clock()
        known = self._memory.baseline is not None and collector.was_patient(now)
        saying: Saying | None = None
        if (absent := _first_without(assigned, warm=False)) is not None:
            saying = verdicts.no_worker(assigned.selector(absent))
        elif not assigned.stage:
            saying = verdicts.wait(Reason.GATE_SILENT, "no step has begun")
        elif assigned.policy is None:
            told = f"the objectives cannot be used: {assigned.problem}"
            saying = verdicts.wait(Reason.INVALID_SPEC, told)
        elif asked and len(self._failures) >= asked:
            why = next(iter(self._failures.values()))
            saying = verdicts.unheard("the stable revision", why)
        elif not collector.is_complete(now) and not known:
            saying = verdicts.wait(Reason.TOO_FEW_SAMPLES, collector.describe_need())
        elif (cold := _first_without(assigned, warm=True)) is not None:
            saying = verdicts.wait(Reason.TOO_FEW_SAMPLES, f"no worker of {cold} is warm yet")
        return saying

    def _begin(self, assigned: Assignment, collector: BaselineCollector) -> None:
        """Fix thresholds and control group. Raises ValueError."""
        now = self._means.clock()
        canary = sum(1 for each in assigned.canary if each.warm)
        control = [each for each in assigned.control if each.warm]
        memory = self._memory
        if collector.is_complete(now) or memory.baseline is None:
            memory.baseline = collector.baseline
        if assigned.policy is None:
            raise ValueError(assigned.problem)
        stage = freeze_stage(
            assigned.stage,
            assigned.policy,
            memory.baseline,
            memory.level,
            assigned.ticks,
            canary,
            reversed=assigned.reverses,
            whole_ages=self._source == "engine",  # what ended is known by the second alone
        )
        if self._source == "engine":
            stage = without_proof(stage)
        group = choose_control(control, canary, self._how_busy(assigned))
        start = math.floor(now) + 1
        self._compared = Comparison(stage, group, start, memory.proof, source=self._source)
        self._collector = None
        self._saved_at = -math.inf
        names = {
            "llmdeployment": str(assigned.key),
            "stage": stage.name,
            "control": len(group),
            "source": self._source,
        }
        LOG.info("Began to compare", extra=names)

    def _how_busy(self, assigned: Assignment) -> float:
        """How many times more requests a canary worker gets than a stable one."""
        seen = self._means.traffic.observe(assigned.uid)

        def load(revision: str, workers: int) -> float:
            part = seen.recent_live.get(revision, 0.0) + seen.recent_mirrored.get(revision, 0.0)
            return part / workers if workers else 0.0

        mine = load(assigned.judged, len(assigned.canary))
        theirs = load(assigned.reference, len(assigned.control))
        return mine / theirs if theirs > 0 else 1.0

    # While a stage runs.

    async def _compare(self, compared: Comparison, assigned: Assignment) -> None:
        if not assigned.canary:
            self._say(verdicts.no_worker(assigned.selector(assigned.judged)))
            return
        compared.enlist(assigned.canary, assigned.control)
        tests = assigned.placebo and compared.source == "tap"
        if tests and self._placebo is None:
            start = math.floor(self._means.clock()) + 1
            self._placebo = Placebo(compared.stage, compared.control, start)
        placebo = self._placebo if tests else None
        for worker, answer in await read_all(self._means.reader, compared.ask()):
            if isinstance(answer, PageError):
                compared.miss(worker, answer)
                continue
            compared.take(worker, answer)
            if placebo is not None:
                placebo.take(worker.uid, answer)
        now = self._means.clock()
        conditions = Conditions(
            judged=assigned.judged,
            reference=assigned.reference,
            matches_load=assigned.matches_load,
            proves_unmatched=assigned.kind == "Canary" and not assigned.matches_load,
        )
        compared.close(now, self._means.traffic.observe(assigned.uid), conditions)
        if placebo is not None:
            placebo.close(now)
        self._judge(compared, assigned, conditions, now)

    def _judge(
        self, compared: Comparison, assigned: Assignment, conditions: Conditions, now: float
    ) -> None:
        judgement = compared.judge(now)
        rounded = self._memory.baseline if compared.source == "engine" else None
        if compared.source == "tap" or rounded is not None:
            self._power.look(compared.stage, judgement, now, rounded)
        said = verdicts.judge(compared, judgement, conditions, now)
        found = said.verdict in ("Failed", "Frozen")
        if found and self._memory.detected is None:
            self._memory.detected = datetime.fromtimestamp(now, UTC)
            self._saved_at = -math.inf
        self._publish(
            verdicts.make_gate(
                said,
                assigned.stage,
                verdicts.word_of_proof(judgement, reverses=assigned.reverses),
                verdicts.describe_numbers(judgement, compared.cut_streams),
                verdicts.moment(judgement.first_seen) if found else None,
                self._memory.detected if found else None,
                observes=assigned.observes,
                notes=self._notes(),
            )
        )

    # What it says and stores.

    def _notes(self) -> tuple[str, ...]:
        notes = [note for note in (self._memory.foreign, self._memory.lost) if note is not None]
        return (*notes, *verdicts.note_means(self._source, self.placebo()))

    def _make(self, said: Saying) -> Gate:
        assigned = self._assigned
        return verdicts.make_gate(
            said,
            assigned.stage,
            verdicts.word_of_proof(None, reverses=assigned.reverses),
            observes=assigned.observes,
            notes=self._notes(),
        )

    def _say(self, said: Saying) -> None:
        self._publish(self._make(said))

    def _publish(self, gate: Gate) -> None:
        gate = replace(gate, power=self._power.known(gate.stage))
        was, self._said = self._said, gate
        self._looked_at = self._means.clock()
        if was is None or (was.verdict, was.proof, was.stage) != (
            gate.verdict,
            gate.proof,
            gate.stage,
        ):
            self._nudge()

    def _save(self) -> None:
        now, memory, collector = self._means.clock(), self._memory, self._collector
        if not memory.stage or memory.foreign is not None or now - self._saved_at < SAVE_EVERY:
            return
        tapped = collector is not None and self._source == "tap"
        collected = collector.usable() if collector is not None and tapped else None
        record = memory.make_record(self._compared, collected, self.placebo(), now)
        if self._store.save(record):
            self._saved_at = now


def _first_without(assigned: Assignment, *, warm: bool) -> str | None:
    """The first of the two revisions that has no worker (no warm one)."""
    for revision, pods in (
        (assigned.reference, assigned.control),
        (assigned.judged, assigned.canary),
    ):
        if not any(each.warm or not warm for each in pods):
            return revision
    return None
