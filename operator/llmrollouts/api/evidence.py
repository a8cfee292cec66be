"""The part of a status that holds an attempt to promote a revision, and what the gates say of it.

Written by the state machine, read by the gate engine (the stage and its level), by `kubectl llm`
and by people. Decides nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmrollouts.api.model import StoredModel
from llmrollouts.api.rules import ATOMIC_LIST
from llmrollouts.api.status_texts import LAST_METRICS, MessageText, NameText, NumberText, Time

Verdict = Literal["Passed", "Failed", "Inconclusive", "Error", "Frozen"]
Proof = Literal["Proven", "Collecting", "NotNeeded"]


class RequestCounter(StoredModel):
    """Requests of the running step: `total` at the last commit, when `source` (one life of
    one operator process) had counted `base`. A new process starts its count at zero."""

    total: int = 0
    """Requests of the step up to the last commit."""
    source: NameText = ""
    """The operator process whose count `base` is."""
    base: int = 0
    """What that process had counted at the last commit."""


class AttemptStatus(StoredModel):
    """One attempt to promote a revision, with its own budget of false rollbacks. A retry is a new
    attempt; a restart of the operator and an edit are not."""

    revision: NameText
    """The revision that is tried."""
    number: int
    """The number of the attempt, counted over all revisions of this deployment."""
    started_at: Time
    """When it began."""
    error_budget: float
    """The accepted chance that this attempt rolls a good revision back, as a fraction."""
    spent: float = 0.0
    """What of it the stages so far were allotted."""
    stage: NameText = ""
    """The stage that is judged now: revision/attempt/step, or revision/attempt/watch."""
    level: float = 0.0
    """What of the budget this stage was allotted."""
    errors: RequestCounter = Field(default_factory=RequestCounter)
    """User requests that failed at the revision in this attempt, saved ones included."""
    saved: RequestCounter = Field(default_factory=RequestCounter)
    """Of these, the requests that stable workers answered instead."""


class GateMetric(StoredModel):
    """What a gate found for one metric. Numbers are texts, as people read them."""

    name: NameText
    """The metric, such as ttft."""
    evidence: NumberText | None = None
    """The evidence of harm; the gate fires when it reaches `needed`."""
    needed: NumberText | None = None
    """The evidence that decides."""
    p50: NumberText | None = None
    """Canary to stable at the median; 1.10 is ten percent slower."""
    p95: NumberText | None = None
    """Canary to stable at the 95th percentile."""
    p99: NumberText | None = None
    """Canary to stable at the 99th percentile."""
    ks: NumberText | None = None
    """The largest distance between the two distributions (Kolmogorov-Smirnov)."""
    ks_lower: NumberText | None = None
    """What that distance is at least, at the gate's certainty."""
    message: MessageText | None = None
    """The same in one sentence."""


class GatePower(StoredModel):
    """What the running step can find at its real rate of requests; the first word comes with 20
    compared requests, a new one when the rate has changed by a fifth."""

    requests_per_second: NumberText
    """Canary requests that were compared, a second."""
    finds: NameText = ""
    """The smallest regressions that are found in 95 of 100 runs, and within what time; empty:
    none."""
    blind: bool = False
    """The step finds no slower revision, whatever it does: it is too short, or sees too few
    requests."""
    message: MessageText
    """The same in one sentence."""


class GateStatus(StoredModel):
    """What a gate says, with its evidence. The last word stays after the rollout has ended."""

    name: NameText
    """The gate that speaks."""
    verdict: Verdict
    """Passed: no harm seen. Failed: rolled back. Frozen: a limit is broken by both revisions, a
    person is needed. Inconclusive: not enough to decide. Error: the source failed."""
    reason: NameText
    """One word that says why."""
    message: MessageText
    """Why, with its numbers."""
    since: Time
    """Since when the verdict is this one."""
    updated_at: Time
    """When the numbers were read."""
    proof: Proof = "NotNeeded"
    """Whether the revision was shown to be no worse, which shares above 5% need."""
    canary_requests: int | None = None
    """Requests of the canary that were compared."""
    control_requests: int | None = None
    """Requests of the stable workers that they were compared with."""
    power: GatePower | None = None
    """What the gate can find in this step at its real rate."""
    metrics: Annotated[list[GateMetric], *LAST_METRICS, ATOMIC_LIST] = Field(default_factory=list)
    """The evidence by metric."""
