"""How a new revision takes over: the steps of a rollout and what bounds them."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from llmrollouts.api.duration import DURATION_PATTERN, parse_duration
from llmrollouts.api.model import ApiModel
from llmrollouts.api.rules import ATOMIC_LIST, Rule, rules
from llmrollouts.api.share import SHARE_PATTERN
from llmrollouts.api.texts import (
    ErrorBudgetText,
    ReadyTimeoutText,
    StepDurationText,
    StepShareText,
    WindowText,
)

MAX_STEPS: Final = 20
MAX_REPLICAS: Final = 1_000

MinRequests = Annotated[int, Field(ge=0, le=1_000_000_000)]

_DEADLINE_MESSAGE = (
    "the deadline of a step is not before its duration: raise deadline, or leave it out for four "
    "times the duration and at least 1h"
)
_DEADLINE_RULE = Rule(
    f"!has(self.deadline) || !self.deadline.matches(r'{DURATION_PATTERN}') || "
    f"!self.duration.matches(r'{DURATION_PATTERN}') || "
    "duration(self.deadline) >= duration(self.duration)",
    _DEADLINE_MESSAGE,
)


class _TimedStep(ApiModel):
    model_config = ConfigDict(json_schema_extra=rules(_DEADLINE_RULE))

    share: StepShareText
    duration: StepDurationText
    min_requests: MinRequests = 20
    deadline: StepDurationText | None = None

    @model_validator(mode="after")
    def _ends_after_its_duration(self) -> Self:
        if self.deadline is not None and parse_duration(self.deadline) < parse_duration(
            self.duration
        ):
            raise ValueError(_DEADLINE_MESSAGE)
        return self


class ShadowStep(_TimedStep):
    """Copies a share of the user requests to the canary and drops its answers."""

    share: StepShareText
    """The share of user requests that is copied, such as 5%."""
    duration: StepDurationText
    """How long requests must flow before the next step, such as 24h."""
    min_requests: MinRequests = 20
    """How many requests the canary must have had before the next step."""
    deadline: StepDurationText | None = None
    """How long the step may take to gather enough evidence, waiting included and pauses not; then
    `onInconclusive` decides. Default: four times the duration, and at least 1h."""


class CanaryStep(_TimedStep):
    """Lets the canary answer a share of the user requests."""

    share: StepShareText
    """The share of user requests that the canary answers, such as 0.5%."""
    duration: StepDurationText
    """How long requests must flow before the next step, such as 30m."""
    min_requests: MinRequests = 20
    """How many requests the canary must have had before the next step."""
    deadline: StepDurationText | None = None
    """How long the step may take to gather enough evidence, waiting included and pauses not; then
    `onInconclusive` decides. Default: four times the duration, and at least 1h."""


class Step(ApiModel):
    """One step of a rollout: either `shadow` or `canary`."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "has(self.shadow) != has(self.canary)",
                "a step is either shadow or canary: set exactly one of the two",
            )
        )
    )

    shadow: ShadowStep | None = None
    """Copies a share of the user requests to the canary and drops its answers."""
    canary: CanaryStep | None = None
    """Lets the canary answer a share of the user requests."""

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.shadow is None) == (self.canary is None):
            raise ValueError("a step is either shadow or canary: set exactly one of the two")
        return self


def default_steps() -> list[Step]:
    return [
        Step(shadow=ShadowStep(share="5%", duration="24h")),
        Step(canary=CanaryStep(share="0.5%", duration="30m")),
        Step(canary=CanaryStep(share="5%", duration="15m")),
        Step(canary=CanaryStep(share="25%", duration="10m")),
        Step(canary=CanaryStep(share="50%", duration="10m")),
    ]


def _canary_share(step: str) -> str:
    """CEL: the share of a canary step as a number; 0 for a shadow step, and for a share that is
    not well-formed, because the rule beside the share reports that and these must not fail on it.
    """
    share = f"{step}.canary.share"
    return (
        f"(has({step}.canary) && {share}.matches(r'{SHARE_PATTERN}') "
        f"? double({share}.replace('%', '')) : 0.0)"
    )


# The API server bounds the cost of a rule beforehand, and knows no bound of a filtered list: so
# both rules walk over the steps themselves.
_RISING = f"self.map(s, {_canary_share('s')}).isSorted()"
_ALL_DIFFERENT = (
    f"self.all(a, {_canary_share('a')} == 0.0 || "
    f"self.exists_one(b, {_canary_share('b')} == {_canary_share('a')}))"
)
_RISING_MESSAGE = (
    "the shares of the canary steps rise from step to step: sort them and let no two be equal"
)


class Strategy(ApiModel):
    """How a new revision takes over."""

    steps: Annotated[
        list[Step],
        Field(min_length=1, max_length=MAX_STEPS),
        Rule("self.size() > 0", "give at least one step, or leave steps out for the default plan"),
        Rule(
            "self.map(s, has(s.canary) ? 1 : 0).isSorted()",
            "shadow steps come before the first canary step: move them to the front",
        ),
        Rule(_RISING, _RISING_MESSAGE),
        Rule(_ALL_DIFFERENT, _RISING_MESSAGE),
        ATOMIC_LIST,
    ] = Field(default_factory=default_steps)
    """The steps, in order: shadow steps first, then canary steps with rising shares. After the last
    one every user moves to the new revision."""
    match_load: bool = True
    """Make canary workers as busy as stable ones during canary steps, so that the two can be
    compared: so many of them that none is busier, as far as `maxExtraReplicas` allows, and copied
    requests for what is missing. Above 50% they are busier; then only failures are compared."""
    rollback_window: WindowText = "1h"
    """How long the replaced revision stays warm after a promotion, for a rollback in seconds."""
    max_extra_replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] | None = None
    """Workers above `replicas` during a rollout. Default: as many as `replicas`. With fewer the
    stable revision shrinks as the canary grows, and condition InstantRollback says so."""
    on_inconclusive: Literal["Hold", "Rollback"] = "Hold"
    """What happens at a step's deadline when the evidence still does not decide. Hold: a person is
    needed. Rollback: the revision is taken out and rejected until `retry`. Never a promotion."""
    error_budget: ErrorBudgetText = "1%"
    """The accepted chance that one attempt with a good revision is rolled back, over all its steps,
    metrics and looks together. A smaller one makes every detection slower."""
    ready_timeout: ReadyTimeoutText = "30m"
    """How long workers may take to become ready before the revision counts as failed."""

    def room_above(self, replicas: int) -> int:
        """Workers that there may be above ``replicas`` during a rollout."""
        extra = self.max_extra_replicas
        return replicas if extra is None else max(0, extra)
