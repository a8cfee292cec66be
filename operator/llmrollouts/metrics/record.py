"""What is stored of a rollout's evidence: enough to go on after a restart, and for ``explain``.

One JSON text under one key of the ConfigMap ``<deployment>-evidence``. The parts are the JSON
texts of their owners (a stage, a gate's state, a baseline, a timeline), kept as texts so that they
come back to the bit. A record that cannot be read is none, and says so. Written by the operator
every ten seconds, read by the next leader and by the command line. Decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llmrollouts.analysis.baseline import Baseline
from llmrollouts.analysis.gate import GateState
from llmrollouts.analysis.proof import Proof
from llmrollouts.analysis.stage import Stage
from llmrollouts.metrics.port import Source

KEY: Final = "evidence.json"
FORMAT: Final = 1
# A ConfigMap holds 1 MiB; a record is about 40 kB.
LARGEST: Final = 256_000


@dataclass(frozen=True, slots=True)
class PlaceboResult:
    """How often the same test fired on stable workers: an honest look at what it is worth here.

    stages: workers x stages that were judged; firings: how many of them were called bad."""

    stages: int = 0
    firings: int = 0


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """name: the stage (status.attempt.stage). stage, state: None while the baseline is collected.
    proof: of the earlier stages of the attempt. timeline: the reader's place, as JSON. control,
    canary: pods (uid -> name) of the two arms. level: what the stage may spend. notes: sentences
    for people, such as that evidence was lost. saved_at: ISO time. source: by what the workers are
    read."""

    name: str
    level: float
    saved_at: str
    stage: Stage | None = None
    state: GateState | None = None
    proof: Proof = field(default_factory=Proof)
    baseline: Baseline | None = None
    timeline: str | None = None
    canary: Mapping[str, str] = field(default_factory=dict)
    control: Mapping[str, str] = field(default_factory=dict)
    detected_at: str | None = None
    notes: tuple[str, ...] = ()
    placebo: PlaceboResult | None = None
    source: Source = "tap"

    @property
    def attempt(self) -> str:
        return attempt_of(self.name)

    def to_data(self) -> dict[str, str]:
        """The ``data`` of the ConfigMap. Raises ValueError when it is too large to be stored."""
        text = json.dumps(
            {
                "format": FORMAT,
                "name": self.name,
                "level": self.level,
                "savedAt": self.saved_at,
                "stage": self.stage.to_json() if self.stage is not None else None,
                "state": self.state.to_json() if self.state is not None else None,
                "proof": self.proof.to_json(),
                "baseline": self.baseline.to_json() if self.baseline is not None else None,
                "timeline": self.timeline,
                "canary": dict(self.canary),
                "control": dict(self.control),
                "detectedAt": self.detected_at,
                "notes": list(self.notes),
                "source": self.source,
                "placebo": None
                if self.placebo is None
                else {"stages": self.placebo.stages, "firings": self.placebo.firings},
            },
            separators=(",", ":"),
        )
        if len(text) > LARGEST:
            raise ValueError(f"the evidence takes {len(text)} bytes, more than {LARGEST}")
        return {KEY: text}

    @classmethod
    def from_data(cls, data: Mapping[str, str]) -> EvidenceRecord:
        """Raises ValueError when the data is no record."""
        try:
            text = data[KEY]
            if len(text) > LARGEST:
                raise ValueError(f"{len(text)} bytes")
            raw = json.loads(text)
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']}")
            return _read(raw)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no stored evidence: {str(error)[:200]}") from error


def attempt_of(stage: str) -> str:
    """``<revision>/<attempt>`` of a stage's name."""
    return stage.rpartition("/")[0]


def _read(raw: dict[str, Any]) -> EvidenceRecord:
    placebo = raw["placebo"]
    return EvidenceRecord(
        name=str(raw["name"]),
        level=float(raw["level"]),
        saved_at=str(raw["savedAt"]),
        stage=None if raw["stage"] is None else Stage.from_json(raw["stage"]),
        state=None if raw["state"] is None else GateState.from_json(raw["state"]),
        proof=Proof.from_json(raw["proof"]),
        baseline=None if raw["baseline"] is None else Baseline.from_json(raw["baseline"]),
        timeline=None if raw["timeline"] is None else str(raw["timeline"]),
        canary={str(uid): str(name) for uid, name in raw["canary"].items()},
        control={str(uid): str(name) for uid, name in raw["control"].items()},
        detected_at=None if raw["detectedAt"] is None else str(raw["detectedAt"]),
        notes=tuple(str(note) for note in raw["notes"]),
        placebo=None
        if placebo is None
        else PlaceboResult(int(placebo["stages"]), int(placebo["firings"])),
        source=_read_source(raw.get("source", "tap")),
    )


def _read_source(raw: object) -> Source:
    match raw:
        case "tap" | "engine":
            return raw
        case _:
            raise ValueError(f"no source: {str(raw)[:20]}")
