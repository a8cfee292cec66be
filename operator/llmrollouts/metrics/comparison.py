"""One running stage: who is read for what, and what of it the gate may take in.

    control group   fixed when the stage begins, of the workers that were ready longest; it may
                    shrink, and a worker that dies or begins another life does not come back
    canary          its warm workers; new ones join when they are warm; one that is no longer ready
                    stays as long as it answers, because its hanging requests are the evidence
    rollback        every second that both arms delivered, except while the canary's workers are
                    busier than stable's: then they would look slower than they are
    proof           only seconds of equal load, and none that spans a change of the share; none at
                    all without the tap (docs/concepts-gate.md says why)

It does no I/O and reads no clock: controller/measure carries pages here each second, and asks for
the judgement. Everything that must survive a restart is in the timeline and the gate's state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from llmrollouts.analysis.counts import LatencySecond, Outcomes, OutcomeSecond
from llmrollouts.analysis.gate import Gate, GateState, start_state
from llmrollouts.analysis.judgement import Judgement
from llmrollouts.analysis.proof import Proof
from llmrollouts.analysis.stage import Stage
from llmrollouts.metrics.cursor import keys_of, lag_of
from llmrollouts.metrics.load import (
    CrossCheck,
    Disagreement,
    EndWatch,
    Load,
    LoadMeter,
    Match,
    Unanswered,
)
from llmrollouts.metrics.page import Page, PageError, has_no_tap
from llmrollouts.metrics.port import Candidate, Query, Reading, Rounding, Source, Worker
from llmrollouts.metrics.timeline import Arm, ClosedSecond, Timeline
from llmrollouts.rollout.intent import RequestCounts, TrafficObservation

# The control group yields at least so many times the canary's samples.
CONTROL_FACTOR: Final = 4
# Reports of the gateways that are older say nothing of this second.
_FRESH_REPORT: Final = 3.0
_CHANGES: Final = 64
_NUMBERS_EVERY: Final = 4.0
# Up to here each second may change whether there are enough.
_FEW_REQUESTS: Final = 50


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the running stage demands. matches_load: the arms are meant to be equally busy;
    proves_unmatched: seconds of unequal load may count for the proof (the user wants no copies)."""

    judged: str
    reference: str
    matches_load: bool
    proves_unmatched: bool


def without_proof(stage: Stage) -> Stage:
    """The same stage, in which nothing is shown to be no worse."""
    bare = {
        metric: replace(places, promotion=(), proof_lags=())
        for metric, places in stage.thresholds.items()
    }
    return replace(stage, thresholds=bare)


def choose_control(
    control: Sequence[Candidate], canary_workers: int, busier: float = 1.0
) -> dict[str, str]:
    """The control group of a stage (uid -> name). ``control``: warm workers, those that were ready
    longest first; ``busier``: how many times more requests a canary worker gets than a stable one.
    """
    wanted = -(-CONTROL_FACTOR * max(1, canary_workers) * max(1.0, busier) // 1)
    return {each.worker.uid: each.worker.name for each in control[: int(wanted)]}


class Comparison:
    """``control``: the control group. start: the first second whose requests count, on the reader's
    clock. proof: of the earlier stages of the attempt. going_on: what was stored of this very
    stage; canary: the workers that it measured then. source: by what both arms are read; without
    the tap the stage is one ``without_proof``."""

    def __init__(
        self,
        stage: Stage,
        control: Mapping[str, str],
        start: int,
        proof: Proof | None = None,
        canary: Mapping[str, str] | None = None,
        going_on: tuple[GateState, Timeline] | None = None,
        source: Source = "tap",
    ) -> None:
        self.stage = stage
        self.source: Source = source
        self.start = start
        self._gate = Gate(stage)
        if going_on is None:
            self.state = start_state(stage, proof)
            self._timeline = Timeline(stage.measurement, start)
        else:
            self.state, self._timeline = going_on
        self.control: dict[str, str] = dict(control)
        self.canary: dict[str, str] = dict(canary or {})
        self._longest = max((lag_of(key) for key in keys_of(stage.measurement)), default=0.0)
        self._meter = LoadMeter()
        self._check = CrossCheck()
        self._workers: dict[str, Worker] = {}
        self._pages: dict[str, Page] = {}
        self._ready: frozenset[str] = frozenset()
        self._failures: dict[str, PageError] = {}
        self._cut: dict[tuple[str, str], int] = {}
        self._changes: deque[int] = deque([start - 1], maxlen=_CHANGES)
        self._programmed: tuple[int, int] | None = None
        self._counted: tuple[str, RequestCounts, RequestCounts] | None = None
        self._counted_at = -1
        self.load = Load(Match.UNKNOWN)
        self._ends = EndWatch()
        self.disagreement: Disagreement | None = None
        self.unanswered: Unanswered | None = None
        self.closed_at: float | None = None
        self.skipped = 0
        # When it was judged, what was decided and shown by then, and the judgement.
        self._judged: tuple[float, tuple[int, int], Judgement] | None = None

    # Who is read, for what.

    def enlist(self, canary: Iterable[Candidate], control: Iterable[Candidate]) -> None:
        """The pods that exist now."""
        canary = tuple(canary)
        living = {each.worker.uid: each.worker for each in (*canary, *control)}
        restarted = self._timeline.restarted()
        self.control = {
            uid: name
            for uid, name in self.control.items()
            if uid in living and uid not in restarted
        }
        self.canary = {
            each.worker.uid: each.worker.name
            for each in canary
            if each.warm or each.worker.uid in self.canary
        }
        self._ready = frozenset(each.worker.uid for each in canary if each.ready)
        arms: dict[str, Arm] = dict.fromkeys(self.control, "control")
        arms.update(dict.fromkeys(self.canary, "canary"))
        self._timeline.enlist(arms)
        # Canary workers that are not measured yet are heard all the same: they get requests, which
        # the gateways count.
        read = arms.keys() | self._ready
        self._workers = {uid: living[uid] for uid in sorted(read)}
        for gone in self._pages.keys() - read:
            del self._pages[gone]
        for gone in self._failures.keys() - read:
            del self._failures[gone]

    def ask(self) -> list[tuple[Worker, Query]]:
        """The reads of this second."""
        asked = []
        for uid, worker in self._workers.items():
            since, boot = (None, None)
            if uid in self.control or uid in self.canary:
                since, boot = self._timeline.place_of(uid)
            measurement = self.stage.measurement if since is not None else None
            rounding: Rounding = "up" if uid in self.control else "down"
            asked.append((worker, Query(measurement, since, boot, self.source, rounding)))
        return asked

    # What they say.

    def take(self, worker: Worker, reading: Reading) -> None:
        page = reading.page
        if self.source == "tap" and not page.tap:
            self.miss(worker, has_no_tap(worker.name))
            return
        uid = worker.uid
        self._failures.pop(uid, None)
        self._pages[uid] = page
        self._meter.note(uid, page, reading.at)
        if uid in self.canary or uid in self.control:
            self._timeline.take(uid, page, reading.at)
        if uid in self._ready or uid in self.canary:
            self._cut[uid, page.boot] = page.cut

    def miss(self, worker: Worker, error: PageError) -> None:
        self._failures[worker.uid] = error
        self._pages.pop(worker.uid, None)

    def close(
        self, now: float, traffic: TrafficObservation, conditions: Conditions
    ) -> tuple[ClosedSecond, ...]:
        """Let the gate take in what is complete at ``now``; returns it."""
        self._note_share(traffic, conditions, int(now))
        self.load = self._meter.compare(self.canary, self.control)
        self._take_gateways(traffic, conditions, int(now))
        self._cross_check(traffic, conditions, now)
        closed = self._timeline.close(now)
        for each in closed:
            self._feed(each.second, conditions)
        if closed:
            self.closed_at = now
        return closed

    def judge(self, now: float) -> Judgement:
        """What the state says: at once when something is decided or the proof moves on, else with
        the numbers of two seconds ago at most, because rounds read them no more often."""
        state = self.state
        marks = (len(state.decided), sum(test.proven for test in state.proof.tests.values()))
        made = self._judged
        few = made is not None and made[2].canary_requests < _FEW_REQUESTS
        if made is None or few or made[1] != marks or now - made[0] >= _NUMBERS_EVERY - 0.5:
            made = self._judged = (now, marks, self._gate.judge(state))
        return made[2]

    # What it knows.

    def heard(self, arm: Arm, now: float) -> frozenset[str]:
        """The workers of an arm that answer."""
        return self._timeline.lives_of(arm, now)

    def closes_at(self, now: float) -> float | None:
        """See ``Timeline.closes_at``."""
        return self._timeline.closes_at(now)

    def first_failure(self, arm: Arm) -> PageError | None:
        """Why a worker of this arm gave no page, where one did not."""
        uids = self.canary if arm == "canary" else self.control
        return next((self._failures[uid] for uid in uids if uid in self._failures), None)

    @property
    def cut_streams(self) -> int | None:
        """Answers of the canary that ended after the first token and too early; None: unknown."""
        return sum(self._cut.values()) if self.source == "tap" else None

    @property
    def dropped(self) -> int:
        return self._timeline.dropped

    def timeline_json(self) -> str:
        return self._timeline.to_json()

    # How.

    def _feed(self, second: LatencySecond | OutcomeSecond, conditions: Conditions) -> None:
        if self._programmed == (0, 0) and not second.canary.total:
            return  # nobody was sent to the canary: no time passed in the stage either
        if isinstance(second, OutcomeSecond):
            self.state = self._gate.take_outcomes(self.state, second)
            return
        if self.load.match is Match.BUSIER:
            self.skipped += 1
            return
        proof = self.state.proof
        state = self._gate.take_latency(self.state, second)
        if self.source == "engine":
            # Rounded against each other, the two arms may be compared at thresholds alone: their
            # distributions and ratios would show a canary that is faster than it is.
            state = replace(state, histograms={})
        if not self._proves(second, conditions):
            state = replace(state, proof=proof)
        self.state = state

    def _proves(self, second: LatencySecond, conditions: Conditions) -> bool:
        """Whether this second may count for the proof that the canary is no worse."""
        if self.load.match is not Match.MATCHED and not conditions.proves_unmatched:
            return False
        first = second.second - self._longest
        last = second.second + 1 + second.stream.lag
        return not any(first <= change <= last for change in self._changes)

    def _note_share(self, traffic: TrafficObservation, conditions: Conditions, second: int) -> None:
        told = traffic.programmed
        found = next(
            (
                r
                for r in (told.revisions if told is not None else ())
                if r.revision in (conditions.judged, conditions.reference) and (r.share or r.mirror)
            ),
            None,
        )
        now = (found.share.ppm, found.mirror.ppm) if found is not None else (0, 0)
        if self._programmed is not None and now != self._programmed:
            self._changes.append(second)
        self._programmed = now

    def _take_gateways(
        self, traffic: TrafficObservation, conditions: Conditions, second: int
    ) -> None:
        """The gateways' own counts of this second: refused and reset connections, 5xx."""
        if traffic.report_age is None or traffic.report_age > _FRESH_REPORT:
            return
        canary = traffic.counts.get(conditions.judged)
        control = traffic.counts.get(conditions.reference)
        if canary is None or control is None:
            return
        if second <= self._counted_at:
            return  # the second look in one second: its counts go to the next
        before, self._counted_at = self._counted, second
        self._counted = (traffic.source, canary, control)
        if before is None or before[0] != traffic.source:
            return
        ends_c, ends_s = _ends(before[1], canary), _ends(before[2], control)
        if ends_c is None or ends_s is None or not ends_c.total:
            return
        tick = OutcomeSecond(0.0, second, ends_c, ends_s)
        self.state = self._gate.take_outcomes(self.state, tick)

    def _cross_check(self, traffic: TrafficObservation, conditions: Conditions, now: float) -> None:
        counts = traffic.counts.get(conditions.judged)
        pages = [(uid, self._pages[uid]) for uid in self._ready if uid in self._pages]
        if counts is None or not pages or len(pages) < len(self._ready):
            return
        sent = counts.issued + counts.mirrored
        if self.source == "engine":
            self.unanswered = self._ends.note(pages, sent, traffic.source, now)
        self.disagreement = self._check.note(pages, sent, counts.errors, traffic.source, now)


def _ends(before: RequestCounts, now: RequestCounts) -> Outcomes | None:
    """What one revision did in between; None where the counts went backwards.

    Errors are clipped to the requests of the second: the connections of a worker that dies end at
    once, and are one event, not many.
    """
    issued, errors = now.issued - before.issued, now.errors - before.errors
    if issued < 0 or errors < 0:
        return None
    return Outcomes(issued, min(issued, errors))
