"""What the operator has committed about one LLMDeployment.

Everything that the state machine must remember across a crash stands here and nowhere else.
``phase`` and ``message`` are printed summaries and never an input of logic.
Texts and lists that could grow without end are cut to their bounds when a value is made, so that
a long message can never make the status unwritable.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmrollouts.api.evidence import (
    AttemptStatus,
    GateMetric,
    GatePower,
    GateStatus,
    Proof,
    RequestCounter,
    Verdict,
)
from llmrollouts.api.model import StoredModel
from llmrollouts.api.rules import ATOMIC_LIST, NAMED_LIST, TYPED_LIST, Schema
from llmrollouts.api.status_texts import (
    HISTORY_ENTRIES,
    LAST_ENTRIES,
    LAST_GATES,
    LAST_HISTORY,
    LIST_ENTRIES,
    MESSAGE_LENGTH,
    NAME_LENGTH,
    MessageText,
    NameText,
    Time,
)
from llmrollouts.api.texts import ShareText

__all__ = [
    "HISTORY_ENTRIES",
    "LIST_ENTRIES",
    "MESSAGE_LENGTH",
    "NAME_LENGTH",
    "AttemptStatus",
    "CommandStatus",
    "Condition",
    "DeathStatus",
    "GateMetric",
    "GatePower",
    "GateStatus",
    "HistoryEntry",
    "LLMDeploymentStatus",
    "LapseStatus",
    "Phase",
    "PromotionStatus",
    "Proof",
    "RequestCounter",
    "RetiringStatus",
    "RollbackStatus",
    "StepStatus",
    "Verdict",
    "WarmStatus",
    "WrittenStatus",
]

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
    """One observation of the operator."""

    type: NameText
    """What the condition is about; docs/api-reference.md lists the types."""
    status: Literal["True", "False", "Unknown"]
    """True, False, or Unknown while the operator cannot tell."""
    reason: NameText
    """One word that says why; docs/api-reference.md lists the reasons."""
    message: MessageText
    """What it means here and what to do next."""
    last_transition_time: Time
    """When `status` last changed."""
    observed_generation: int | None = None
    """The metadata.generation that the condition speaks of."""


class StepStatus(StoredModel):
    """The running step. Its clock runs only while users or mirrored requests really flow."""

    index: int
    """The place of the step in spec.strategy.steps, from 0."""
    kind: Literal["Shadow", "Canary"]
    """Shadow copies requests and drops the answers; Canary answers users."""
    share: ShareText
    """The share that the step asks for."""
    started_at: Time
    """When the step began."""
    held_seconds: float = 0.0
    """Time on the step's clock up to `runningSince`, in seconds."""
    running_since: Time | None = None
    """Since when the clock runs; absent while it stands still."""
    silent_since: Time | None = None
    """Since when a gateway has yet to report to this operator; the share lapses 15 s later."""
    counter: RequestCounter = Field(default_factory=RequestCounter)
    """The requests counted in this step, compared with the step's minRequests."""
    waited_seconds: float = 0.0
    """Time towards the step's deadline up to `waitingSince`, in seconds."""
    waiting_since: Time | None = None
    """Since when that time runs; absent while the rollout is paused, held or lapsed."""


class PromotionStatus(StoredModel):
    """How far the promotion is, which moves every user without loading weights again."""

    stage: Literal["Growing", "Shifting", "Switching", "Clearing"]
    """Growing: workers come up to full size. Shifting: share 100 % until acknowledged.
    Switching: the route's default becomes the new revision. Clearing: the share key goes."""
    started_at: Time
    """When the stage began."""


class LapseStatus(StoredModel):
    """The share is 0 without a verdict; `counts` remembers lapses of this rollout by cause."""

    active: bool
    """True while the share is held at 0."""
    cause: NameText
    """Why, in one word."""
    since: Time
    """When the last lapse began."""
    healthy_since: Time | None = None
    """Since when the cause is gone; the share returns after 60 s of health."""
    counts: Annotated[dict[str, int], Schema((("maxProperties", LIST_ENTRIES),))] = Field(
        default_factory=dict
    )
    """Lapses of this rollout by cause."""


class WarmStatus(StoredModel):
    """The replaced revision, kept at full size for a rollback without loading weights."""

    revision: NameText
    """The revision that was stable before."""
    until: Time
    """When its workers may go (spec.strategy.rollbackWindow)."""
    share: ShareText | None = None
    """The share of user requests that it answers, so that the new revision is compared with it."""
    shadow_share: ShareText | None = None
    """The share of user requests that is copied to it, so that its workers are as busy."""


class RetiringStatus(StoredModel):
    """A revision that gets no new request; its workers go once the proxies have confirmed it."""

    revision: NameText
    """The revision."""
    since: Time
    """Since when it gets no new request."""
    released_at: Time | None = None
    """When every gateway (or the HTTPRoute, read back) had confirmed that."""


class DeathStatus(StoredModel):
    """Container-caused deaths of canary workers in this rollout."""

    seen: Annotated[list[NameText], *LAST_ENTRIES, ATOMIC_LIST] = Field(default_factory=list)
    """The deaths counted so far, as pod uid/container/restart."""
    excused: Annotated[list[NameText], *LAST_ENTRIES, ATOMIC_LIST] = Field(default_factory=list)
    """Deaths that do not count, because workers of the other revision died in the same minute."""
    revision: NameText | None = None
    """The revision whose deaths these are."""


class RollbackStatus(StoredModel):
    """The last rollback and its times; a time is absent where it was not measured."""

    revision: NameText
    """The revision that was taken out."""
    to: NameText
    """The revision that answers since."""
    reason: NameText
    """One word that says why."""
    message: MessageText
    """Why, with its numbers."""
    requested_at: Time | None = None
    """When a person asked for it, to the second."""
    first_seen_at: Time | None = None
    """When the fault was first seen in the data: the evidence that decided began here."""
    detected_at: Time | None = None
    """When the evidence was enough."""
    decided_at: Time
    """When the operator decided it."""
    programmed_at: Time | None = None
    """When the last gateway had acknowledged it, or the HTTPRoute was read back with weight 0."""
    last_canary_request_at: Time | None = None
    """When the last user request started on the revision taken out."""
    lost_requests: int | None = None
    """User requests of this attempt that failed at the revision and were not saved."""
    saved_requests: int | None = None
    """User requests of this attempt that failed at the revision and that stable answered."""
    cut_streams: int | None = None
    """Answers of the revision in this attempt that ended after their first token and too early."""
    rejects: bool = False
    """Whether the revision stays out until a person says `retry`."""


class CommandStatus(StoredModel):
    """The last command taken in. `sequence` grows by one with each."""

    sequence: int
    """The number of the command."""
    value: NameText
    """The annotation's value as it was given."""
    at: Time
    """When it was taken in."""
    result: Literal["Done", "Refused"]
    """Whether it was executed."""
    message: MessageText
    """What it did, or why it was refused."""
    reason: NameText | None = None
    """The same in one word."""
    withdrawn: bool = False
    """Whether the annotation was seen absent before the operator could remove it."""


class HistoryEntry(StoredModel):
    """One event of the past."""

    at: Time
    """When it happened."""
    revision: NameText
    """The revision that it is about."""
    event: NameText
    """What happened, in one word."""
    message: MessageText
    """What happened, in a sentence."""


class LLMDeploymentStatus(StoredModel):
    """What the operator has done and sees. Written by the operator alone."""

    observed_generation: int | None = None
    """The metadata.generation that this status answers to."""
    epoch: int | None = None
    """The term of the operator's leader that wrote it; an older leader writes nothing."""
    phase: Phase | None = None
    """A summary in one word, for people and GitOps tools."""
    message: MessageText | None = None
    """A summary in one sentence: what happens now and what it waits for."""
    conditions: Annotated[list[Condition], *LAST_ENTRIES, TYPED_LIST] = Field(default_factory=list)
    """Observations in detail; each says what to do next."""
    stable_revision: NameText | None = None
    """The revision that answers whatever no share takes."""
    canary_revision: NameText | None = None
    """The revision on its way."""
    # override_source is a digest of the spec's source when the override was made.
    override_revision: NameText | None = None
    """The stored revision that `rollback:REVISION` asked for instead of the spec's."""
    override_source: NameText | None = None
    """The spec for which the override holds; it ends when spec.revision changes."""
    step: StepStatus | None = None
    """The running step."""
    share: ShareText | None = None
    """The share of user requests that the canary is meant to answer now."""
    shadow_share: ShareText | None = None
    """The share of user requests that is copied to the canary now."""
    measured_share: NameText | None = None
    """The share that the gateways report for the last ten seconds; absent with an HTTPRoute."""
    measured_shadow_share: NameText | None = None
    """The mirrored share that the gateways report for the last ten seconds."""
    attempt: AttemptStatus | None = None
    """The running or last attempt to promote a revision."""
    gates: Annotated[list[GateStatus], *LAST_GATES, NAMED_LIST] = Field(default_factory=list)
    """What the gates say, with their evidence."""
    promotion: PromotionStatus | None = None
    """The running promotion."""
    warm: WarmStatus | None = None
    """The replaced revision that can take all users back at once."""
    retiring: Annotated[list[RetiringStatus], *LAST_ENTRIES, ATOMIC_LIST] = Field(
        default_factory=list
    )
    """Revisions whose workers go once nothing sends users to them any more."""
    paused: bool = False
    """True after `pause`: the share stays and the step's clock stands still."""
    hold: MessageText | None = None
    """Why a person is needed before the rollout goes on."""
    lapse: LapseStatus | None = None
    """The lapses of this rollout: the share fell to 0 without a verdict."""
    deaths: DeathStatus | None = None
    """Deaths of canary containers; the second one fails the revision."""
    last_rollback: RollbackStatus | None = None
    """The last rollback, with the times of its parts."""
    command: CommandStatus | None = None
    """The last command."""
    history: Annotated[list[HistoryEntry], *LAST_HISTORY, ATOMIC_LIST] = Field(default_factory=list)
    """The last events, oldest first."""
    replicas: int | None = None
    """Workers of all revisions that are wanted now (scale subresource)."""
    ready_replicas: int | None = None
    """Workers that are ready."""
    selector: Annotated[str, Schema((("maxLength", MESSAGE_LENGTH),))] | None = None
    """Selects the workers' pods (scale subresource)."""


class WrittenStatus(LLMDeploymentStatus):
    """The status in the form of the API: with what is printed for people and never read back."""

    step_text: NameText | None = None
    """The running step as `kubectl get` prints it: its place, the number of steps, its kind."""
    verdict: NameText | None = None
    """The gravest verdict of the gates, with its reason unless they all passed."""
