"""What is different where users come by an HTTPRoute of their own gateway, and how that is told.

Such a route copies no requests and counts none, and its weights have no time to live: no step
waits for requests, canary steps fill nobody up, and the conditions say what is not promised before
the first step begins. Decides nothing beyond that. Used by routes, grants, step_checks, lapse and
conditions.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from llmrollouts.api.reasons import ConditionType, Reason
from llmrollouts.rollout.checks import plural
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.intent import DeploymentTraffic, RouteRule

RouteFinding: TypeAlias = tuple[ConditionType, Literal["True", "False", "Unknown"], Reason, str]


def rule_of(facts: Facts) -> RouteRule | None:
    """The rule whose weights are the shares; None: the built-in gateway has them."""
    given = facts.spec.traffic.http_route
    if facts.spec.traffic.provider != "HTTPRoute" or given is None:
        return None
    return RouteRule(given.name, given.rule_name, given.rule_index)


def copies_requests(facts: Facts) -> bool:
    """Whether the provider can copy requests to a canary at all."""
    return rule_of(facts) is None


def why_unread(facts: Facts) -> str | None:
    """What keeps the route from being read as it should be; None: nothing, or no route is used."""
    rule = rule_of(facts)
    if rule is None:
        return None
    problem = facts.traffic.problem
    if problem is not None:
        return problem.message
    age = facts.traffic.report_age
    when = "not been read yet" if age is None else f"not been read for {age:.0f}s"
    return f"HTTPRoute {rule.route} has {when}"


def who_confirms(facts: Facts) -> str:
    """Whose word it is that users are where they should be."""
    rule = rule_of(facts)
    return "every gateway" if rule is None else f"HTTPRoute {rule.route}, read back,"


def describe_telling(facts: Facts) -> str:
    """What happens between a decision and its confirmation."""
    rule = rule_of(facts)
    return (
        "the gateways are being told"
        if rule is None
        else f"HTTPRoute {rule.route} does not carry it yet: condition RouteProgrammed says why"
    )


def no_guarantees(rule: RouteRule) -> RouteFinding:
    """Said from the first round on, whatever happens."""
    return (
        ConditionType.TRAFFIC_GUARANTEES,
        "False",
        Reason.PROVIDER_WITHOUT_TTL,
        (
            f"shares are weights of HTTPRoute {rule.route}, which have no time to live: if the "
            "whole operator is down in a canary step, the share stays until it is back; requests "
            "are not counted, and users being back within 30 seconds is not promised"
        ),
    )


def find_route(rule: RouteRule, traffic: DeploymentTraffic, facts: Facts) -> RouteFinding:
    """Whether the route has the weights of ``traffic``, which was just decided."""
    kind = ConditionType.ROUTE_PROGRAMMED
    seen = facts.traffic
    if seen.problem is not None:
        return (kind, "False", seen.problem.reason, seen.problem.message)
    if seen.report_age is None:
        return (kind, "Unknown", Reason.WEIGHTS_UNSET, f"{why_unread(facts)}")
    if seen.refusals:
        told = "; ".join(seen.refusals)
        return (kind, "False", Reason.ROUTE_NOT_ACCEPTED, f"the route was refused by {told}")
    if seen.settled_gateways < seen.gateways or not seen.gateways:
        return (
            kind,
            "False",
            Reason.ROUTE_NOT_ACCEPTED,
            (
                f"{seen.settled_gateways} of {plural(seen.gateways, 'gateway')} of HTTPRoute "
                f"{rule.route} have accepted it in its present form: do its parentRefs name a "
                "Gateway that exists?"
            ),
        )
    # What was asked for a moment ago is not late yet.
    if not seen.settled and seen.programmed == traffic:
        return (kind, "False", Reason.WEIGHTS_UNSET, f"HTTPRoute {rule.route} is being told")
    return (
        kind,
        "True",
        Reason.WEIGHTS_SET,
        f"HTTPRoute {rule.route} has the weights that were asked for, and its gateways accepted it",
    )
