"""An HTTPRoute's two weights: where they stand, what they say, and the patch that changes them.

Nothing else of the route is ever written: the patch replaces two numbers and tests beside them
that they still are what was read (R20). A weight is an integer, so a share of parts per million is
exact with a total of 1,000,000, the most that the Gateway API allows. Pure; called by httproute.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llmrollouts.api.manifest import Manifest
from llmrollouts.api.reasons import Reason
from llmrollouts.api.share import WHOLE, Share
from llmrollouts.resources.services import PORT, SIDES, service_name
from llmrollouts.rollout.intent import RouteRule, TrafficProblem

# What the Gateway API takes a backend without a weight to have.
_DEFAULT_WEIGHT: Final = 1


class UnusableRoute(Exception):
    """The route cannot be split; ``problem`` says why and what to write."""

    def __init__(self, problem: TrafficProblem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Weights:
    stable: int
    canary: int

    @property
    def share(self) -> Share:
        """What the canary's Service gets of the users that the two share, rounded up."""
        total = self.stable + self.canary
        return Share(-(-self.canary * WHOLE // total) if total else 0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the two weights of one route stand: the rule, and each backend in its list."""

    rule: int
    stable: int
    canary: int


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How many of the route's gateways have accepted it as it is now. refusals: in their words."""

    gateways: int
    accepted: int
    refusals: tuple[str, ...] = ()


def make_weights(share: Share) -> Weights:
    return Weights(stable=WHOLE - share.ppm, canary=share.ppm)


def find_place(route: Manifest, deployment: str, wanted: RouteRule) -> Place:
    """Where the weights stand. Raises UnusableRoute."""
    found: Sequence[Manifest] = (route.get("spec") or {}).get("rules") or []
    if wanted.name is not None:
        # Names are unique in a route; the API server sees to it.
        chosen = [index for index, rule in enumerate(found) if rule.get("name") == wanted.name]
        missing = f"has no rule with the name {wanted.name!r}"
    elif wanted.index is not None:
        chosen = [wanted.index] if wanted.index < len(found) else []
        missing = f"has {len(found)} rules, and so none in place {wanted.index} (counted from 0)"
    else:
        chosen = [
            index for index, rule in enumerate(found) if any(_all_ours(route, rule, deployment))
        ]
        missing = "has no rule that lists the two Services"
    if not chosen:
        reason = Reason.ROUTE_RULE_MISSING
        raise UnusableRoute(_problem(reason, route, missing, deployment))
    if len(chosen) > 1:
        several = ", ".join(str(index) for index in chosen)
        raise UnusableRoute(
            TrafficProblem(
                Reason.ROUTE_RULE_MISSING,
                f"{_title(route)} lists the two Services in rules {several} (counted from 0): say "
                "which is meant with spec.traffic.httpRoute.ruleName or ruleIndex",
            )
        )
    index = chosen[0]
    places = [list(_places(route, found[index], deployment, side)) for side in SIDES]
    if [len(place) for place in places] != [1, 1]:
        seen = " and ".join(
            f"{service_name(deployment, side)} {len(place)} times"
            for side, place in zip(SIDES, places, strict=True)
        )
        told = f"lists in rule {index} (counted from 0) {seen}, each is needed once"
        raise UnusableRoute(_problem(Reason.ROUTE_BACKENDS_MISSING, route, told, deployment))
    return Place(index, places[0][0], places[1][0])


def read_weights(route: Manifest, place: Place) -> Weights:
    backends = route["spec"]["rules"][place.rule]["backendRefs"]
    return Weights(
        *(
            int(backends[index].get("weight", _DEFAULT_WEIGHT))
            for index in (place.stable, place.canary)
        )
    )


def make_patch(route: Manifest, place: Place, weights: Weights) -> list[Manifest]:
    """JSON patch operations that turn the two weights of ``route`` into ``weights``.

    The tests make it fail when somebody has moved, renamed or re-weighted either backend, or put
    another rule in the place, since ``route`` was read.
    """
    rule = route["spec"]["rules"][place.rule]
    root = f"/spec/rules/{place.rule}"
    tests: list[Manifest] = []
    changes: list[Manifest] = []
    if "name" in rule:
        tests.append(_operation("test", f"{root}/name", rule["name"]))
    for index, weight in ((place.stable, weights.stable), (place.canary, weights.canary)):
        backend = rule["backendRefs"][index]
        path = f"{root}/backendRefs/{index}"
        # The whole entry, weight included: nothing of it may have changed.
        tests.append(_operation("test", path, backend))
        if backend.get("weight") != weight:
            verb = "replace" if "weight" in backend else "add"
            changes.append(_operation(verb, f"{path}/weight", weight))
    return [*tests, *changes]


def read_acceptance(route: Manifest) -> Acceptance:
    """What the controllers of the route's gateways say of its present generation."""
    generation = int(route["metadata"].get("generation") or 0)
    given = (route.get("status") or {}).get("parents") or []
    parents = (route.get("spec") or {}).get("parentRefs") or []
    accepted = 0
    refusals: list[str] = []
    for parent in given:
        conditions = {c.get("type"): c for c in parent.get("conditions") or []}
        told = conditions.get("Accepted")
        if told is None or int(told.get("observedGeneration") or 0) < generation:
            continue
        unresolved = conditions.get("ResolvedRefs") or {}
        bad = told if told.get("status") != "True" else None
        if bad is None and unresolved.get("status") == "False":
            bad = unresolved
        if bad is None:
            accepted += 1
        else:
            by = (parent.get("parentRef") or {}).get("name", "a gateway")
            refusals.append(f"{by}: {bad.get('reason', '')} {bad.get('message', '')}"[:300].strip())
    # One entry for each listener that a controller looked at; a route may ask for more than
    # anybody has answered for.
    return Acceptance(max(len(parents), len(given)), accepted, tuple(refusals))


def _operation(verb: str, path: str, value: Any) -> Manifest:
    return {"op": verb, "path": path, "value": value}


def _title(route: Manifest) -> str:
    metadata = route["metadata"]
    return f"HTTPRoute {metadata.get('namespace')}/{metadata.get('name')}"


def _problem(reason: Reason, route: Manifest, told: str, deployment: str) -> TrafficProblem:
    stable, canary = (service_name(deployment, side) for side in SIDES)
    return TrafficProblem(
        reason,
        f"{_title(route)} {told}; write in the rule that splits the users: backendRefs: "
        f"[{{name: {stable}, port: {PORT}, weight: {WHOLE}}}, "
        f"{{name: {canary}, port: {PORT}, weight: 0}}]",
    )


def _places(route: Manifest, rule: Manifest, deployment: str, side: Any) -> Iterator[int]:
    """The backends of a rule that are our Service of one side, in the route's own namespace."""
    namespace = route["metadata"].get("namespace")
    for index, backend in enumerate(rule.get("backendRefs") or []):
        if (
            backend.get("name") == service_name(deployment, side)
            and backend.get("kind", "Service") == "Service"
            and not backend.get("group")
            and backend.get("namespace", namespace) == namespace
        ):
            yield index


def _all_ours(route: Manifest, rule: Manifest, deployment: str) -> Iterator[int]:
    for side in SIDES:
        yield from _places(route, rule, deployment, side)
