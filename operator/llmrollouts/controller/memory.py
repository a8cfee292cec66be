"""What one rollout's measurement remembers from stage to stage and over a restart.

It decides how a stage begins: it goes on to the bit where its evidence is stored; it begins afresh
where the stage has just begun; and with half of the stage's level where it has run and nothing is
stored of it, because a restart must never buy a second chance to be wrong. The proof goes on
through an attempt and ends with it. Called by controller/measure.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from llmrollouts.analysis.baseline import Baseline
from llmrollouts.analysis.proof import Proof
from llmrollouts.controller.assignment import Assignment
from llmrollouts.controller.evidence import EvidenceStore, Unreadable
from llmrollouts.metrics.comparison import Comparison
from llmrollouts.metrics.record import EvidenceRecord, PlaceboResult, attempt_of
from llmrollouts.metrics.timeline import Timeline

LOG: Final = logging.getLogger(__name__)

# A stage that has run for longer and of which nothing is stored has lost its evidence, seconds.
LOST_AFTER: Final = 15.0
_LOST: Final = (
    "no evidence of this stage so far is stored: it begins again with half of the stage's error "
    "budget"
)


@dataclass
class Memory:
    """stage: the running one; None before the first. level: what it may spend. lost: a sentence
    when evidence of it was lost; foreign: when the ConfigMap is somebody else's, and nothing may be
    stored. detected: when harm was found. baseline: of stable, the latest known. placebo: results
    of the earlier stages."""

    stage: str | None = None
    level: float = 0.0
    lost: str | None = None
    foreign: str | None = None
    detected: datetime | None = None
    baseline: Baseline | None = None
    proof: Proof = field(default_factory=Proof)
    placebo: PlaceboResult = field(default_factory=PlaceboResult)
    _loaded: bool = False
    _found: EvidenceRecord | None = None

    async def load(self, store: EvidenceStore, name: str) -> None:
        """Read what was stored, once. Raises what the API raises: then nothing is known yet."""
        if self._loaded:
            return
        try:
            self._found = await store.load()
        except Unreadable as problem:
            names = {"llmdeployment": name, "error": str(problem)[:300]}
            LOG.warning("Found no usable evidence", extra=names)
            self.foreign = None if problem.ours else str(problem)
        self._loaded = True

    def enter(
        self, assigned: Assignment, ended: Comparison | None, now: float
    ) -> Comparison | None:
        """Another stage begins, after ``ended``. The comparison that goes on, if one was stored."""
        first = self.stage is None
        if ended is not None:
            self.proof = ended.state.proof
            if ended.source != "tap":
                self.baseline = None  # of the engine's bounds; the next stage may have taps
        if attempt_of(self.stage or "") != attempt_of(assigned.stage):
            self.proof = Proof()
        self.stage, self.level = assigned.stage, assigned.level
        self.detected, self.lost = None, None
        found, self._found = self._found, None
        if found is not None:
            try:
                if self._recall(found, assigned):
                    return self._go_on(found, assigned, now)
            except ValueError as problem:
                names = {"llmdeployment": str(assigned.key), "error": str(problem)[:300]}
                LOG.warning("Found no usable evidence", extra=names)
        if first and _has_run(assigned, now):
            self.level, self.lost = assigned.level / 2, _LOST
        return None

    def make_record(
        self,
        compared: Comparison | None,
        baseline: Baseline | None,
        placebo: PlaceboResult | None,
        now: float,
    ) -> EvidenceRecord:
        """All of it. ``baseline``: what is being collected, where none is known yet."""
        return EvidenceRecord(
            name=self.stage or "",
            level=self.level,
            saved_at=datetime.fromtimestamp(now, UTC).isoformat(),
            stage=compared.stage if compared is not None else None,
            state=compared.state if compared is not None else None,
            proof=compared.state.proof if compared is not None else self.proof,
            baseline=self.baseline if self.baseline is not None else baseline,
            timeline=compared.timeline_json() if compared is not None else None,
            canary=compared.canary if compared is not None else {},
            control=compared.control if compared is not None else {},
            detected_at=self.detected.isoformat() if self.detected is not None else None,
            notes=(self.lost,) if self.lost is not None else (),
            placebo=placebo,
            source=compared.source if compared is not None else "tap",
        )

    def _recall(self, found: EvidenceRecord, assigned: Assignment) -> bool:
        """Take what any stage may use; True: it is of this very stage."""
        self.baseline = found.baseline if found.source == "tap" else None
        if found.placebo is not None:
            self.placebo = found.placebo
        if attempt_of(found.name) == attempt_of(assigned.stage):
            self.proof = found.proof
        return bool(assigned.stage) and found.name == assigned.stage

    def _go_on(self, found: EvidenceRecord, assigned: Assignment, now: float) -> Comparison | None:
        """Raises ValueError when the parts do not fit each other."""
        compared = None
        if found.stage is not None and found.state is not None and found.timeline is not None:
            timeline = Timeline.from_json(found.timeline, found.stage.measurement, now)
            compared = Comparison(
                found.stage,
                found.control,
                int(now),
                canary=found.canary,
                going_on=(found.state, timeline),
                source=found.source,
            )
            if found.source != "tap":
                self.baseline = found.baseline  # of this stage's own bounds
        detected = found.detected_at
        self.detected = None if detected is None else datetime.fromisoformat(detected)
        self.level, self.lost = found.level, next(iter(found.notes), None)
        names = {"llmdeployment": str(assigned.key), "stage": found.name, "saved": found.saved_at}
        LOG.info("Took up stored evidence", extra=names)
        return compared


def _has_run(assigned: Assignment, now: float) -> bool:
    if not assigned.stage or assigned.started_at is None:
        return False
    return now - assigned.started_at.timestamp() > LOST_AFTER
