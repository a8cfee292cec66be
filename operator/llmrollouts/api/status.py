"""What the operator has committed about one LLMDeployment.

Everything that the state machine must remember across a crash stands here and nowhere else.
``phase`` and ``message`` are printed summaries and never an input of logic.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from llmrollouts.api.model import StoredModel
from llmrollouts.api.spec import ShareText

Phase = Literal[
    "Pending",
    "Starting",
    "Serving",
    "Progressing",
    "Paused",
    "Held",
    "Promoting",
    "RollingBack",
    "Degraded",
    "Failed",
]


class Condition(StoredModel):
    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_time: datetime
    observed_generation: int | None = None


class RequestCounter(StoredModel):
    """Requests of the running step: ``total`` at the last commit, when ``source`` (one life of
    one operator process) had counted ``base``. A new process starts its count at zero."""

    total: int = 0
    source: str = ""
    base: int = 0


class StepStatus(StoredModel):
    """The running step. Its clock runs only while users or mirrored requests really flow."""

    index: int
    kind: Literal["Shadow", "Canary"]
    share: ShareText
    started_at: datetime
    held_seconds: float = 0.0
    running_since: datetime | None = None
    counter: RequestCounter = Field(default_factory=RequestCounter)


class PromotionStatus(StoredModel):
    """Growing: workers come up to full size. Shifting: share 100 % until acknowledged.
    Switching: the route's default becomes the new revision. Clearing: the share key goes."""

    stage: Literal["Growing", "Shifting", "Switching", "Clearing"]
    started_at: datetime


class LapseStatus(StoredModel):
    """The share is 0 without a verdict; ``counts`` remembers lapses of this rollout by cause."""

    active: bool
    cause: str
    since: datetime
    healthy_since: datetime | None = None
    counts: dict[str, int] = Field(default_factory=dict)


class WarmStatus(StoredModel):
    """The replaced revision, kept at full size until ``until`` for a rollback without loading."""

    revision: str
    until: datetime


class RetiringStatus(StoredModel):
    """Revisions that get no new request; their workers go once the proxies have confirmed it."""

    revision: str
    since: datetime


class DeathStatus(StoredModel):
    """Container-caused deaths of canary workers in this rollout (ids: pod uid/restart)."""

    seen: list[str] = Field(default_factory=list)


class RollbackStatus(StoredModel):
    """The last rollback and its times; a time is absent where it was not measured."""

    revision: str
    to: str
    reason: str
    message: str
    requested_at: datetime | None = None
    decided_at: datetime
    programmed_at: datetime | None = None
    last_canary_request_at: datetime | None = None


class CommandStatus(StoredModel):
    """The last command taken in. ``sequence`` grows by one with each; see api/command.py."""

    sequence: int
    value: str
    at: datetime
    result: Literal["Done", "Refused"]
    message: str


class HistoryEntry(StoredModel):
    at: datetime
    revision: str
    event: str
    message: str


class LLMDeploymentStatus(StoredModel):
    observed_generation: int | None = None
    epoch: int | None = None
    phase: Phase | None = None
    message: str | None = None
    conditions: list[Condition] = Field(default_factory=list)
    stable_revision: str | None = None
    canary_revision: str | None = None
    # Set by `rollback:REVISION` to a stored revision; cleared when spec.revision changes
    # (override_source is a digest of the spec's source at that time).
    override_revision: str | None = None
    override_source: str | None = None
    step: StepStatus | None = None
    share: ShareText | None = None
    shadow_share: ShareText | None = None
    # What the gateways report of the last ten seconds.
    measured_share: str | None = None
    measured_shadow_share: str | None = None
    promotion: PromotionStatus | None = None
    warm: WarmStatus | None = None
    retiring: list[RetiringStatus] = Field(default_factory=list)
    paused: bool = False
    hold: str | None = None  # why a person is needed before the rollout goes on
    lapse: LapseStatus | None = None
    deaths: DeathStatus | None = None
    last_rollback: RollbackStatus | None = None
    command: CommandStatus | None = None
    history: list[HistoryEntry] = Field(default_factory=list)
    # For the scale subresource.
    replicas: int | None = None
    ready_replicas: int | None = None
    selector: str | None = None
