"""How users reach the workers: the built-in gateway, or an HTTPRoute of the user's own gateway.

Decides nothing: the traffic providers follow it. Part of the spec (api/spec.py).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from llmrollouts.api.model import ApiModel
from llmrollouts.api.rules import Rule, matches, rules
from llmrollouts.api.texts import ObjectName

# As many rules as an HTTPRoute may have.
MAX_RULES: Final = 16

_RULE_PATTERN: Final = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
_RULE_NAME = (
    StringConstraints(pattern=_RULE_PATTERN, max_length=253),
    matches(_RULE_PATTERN, "the name of a rule: lower-case letters, digits, dots and dashes"),
)
_ONE_RULE: Final = "a rule is found by its name or by its place: leave ruleName or ruleIndex out"
_ROUTE_GIVEN: Final = (
    "traffic.httpRoute names the route for provider HTTPRoute: give both, or leave both out"
)

COPIES_NOTHING: Final = Rule(
    "!has(self.traffic) || self.traffic.provider != 'HTTPRoute' || "
    "self.strategy.steps.all(step, has(step.canary))",
    "an HTTPRoute copies no requests, so there is no shadow step with it: write "
    "strategy.steps with canary steps only, or use traffic.provider Gateway",
)
STAYS_DURING_A_ROLLOUT: Final = Rule(
    "!has(self.status) || !has(self.status.canaryRevision) || "
    "self.spec.traffic == oldSelf.spec.traffic",
    "traffic cannot be changed while a revision is on its way: let the rollout end, or roll it "
    "back, then change it",
)


class HTTPRouteReference(ApiModel):
    """The rule of an HTTPRoute whose two weights the operator sets."""

    model_config = ConfigDict(
        json_schema_extra=rules(Rule("!has(self.ruleName) || !has(self.ruleIndex)", _ONE_RULE))
    )

    name: ObjectName
    """The HTTPRoute, in the namespace of the LLMDeployment."""
    rule_name: Annotated[str, *_RULE_NAME] | None = None
    """The name of the rule. Not needed while only one rule lists the two Services."""
    rule_index: Annotated[int, Field(ge=0, le=MAX_RULES - 1)] | None = None
    """The place of the rule in the route, counted from 0, when it has no name."""

    @model_validator(mode="after")
    def _is_one_rule(self) -> Self:
        if self.rule_name is not None and self.rule_index is not None:
            raise ValueError(_ONE_RULE)
        return self


class Traffic(ApiModel):
    """How users reach the workers."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            # The API server checks the default, {}, before it fills in the provider.
            Rule(
                "(has(self.provider) && self.provider == 'HTTPRoute') == has(self.httpRoute)",
                _ROUTE_GIVEN,
            )
        )
    )

    provider: Literal["Gateway", "HTTPRoute"] = "Gateway"
    """`Gateway`: the built-in one, with every guarantee. `HTTPRoute`: weights of a route of a
    gateway that you have; no shadow steps, no counted requests, no promise to be back in 30
    seconds."""
    http_route: HTTPRouteReference | None = None
    """The route whose weights are set, with provider HTTPRoute."""

    @model_validator(mode="after")
    def _has_its_route(self) -> Self:
        if (self.provider == "HTTPRoute") != (self.http_route is not None):
            raise ValueError(_ROUTE_GIVEN)
        return self
