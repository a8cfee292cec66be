"""A cluster with one HTTPRoute, two Services and the pods behind them, in memory.

Implements RouteStore the way tests/controller/test_route_store.py sees the real API server do it:
a JSON patch counts a generation, a failed test raises Moved. ``accepts``: the gateway's controller
confirms each generation at once. ``follows``: endpoints follow their Service at once. ``before``
is called before each answer and may raise. ``exposure``: what share of the route's users a
revision would answer now, whichever way they come.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from llmrollouts.api.manifest import Manifest
from llmrollouts.api.reasons import Reason
from llmrollouts.resources.children import Owner
from llmrollouts.resources.services import SIDES, Side
from llmrollouts.rollout.intent import TrafficProblem
from llmrollouts.traffic.route_port import Moved
from llmrollouts.traffic.weights import UnusableRoute
from tests.fakes.json_patch import DoesNotFit, patch_object

BYSTANDER = {"name": "legacy", "port": 80, "weight": 7}


def make_route(stable: int = 1_000_000, canary: int = 0, name: str = "chat") -> Manifest:
    """Two rules; the second one splits, beside a backend and a filter of no concern here."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "prod", "generation": 1},
        "spec": {
            "parentRefs": [{"name": "edge"}],
            "hostnames": ["llm.example"],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/legacy"}}],
                    "backendRefs": [dict(BYSTANDER)],
                },
                {
                    "name": "users",
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "filters": [
                        {
                            "type": "RequestHeaderModifier",
                            "requestHeaderModifier": {"set": [{"name": "x-team", "value": "a"}]},
                        }
                    ],
                    "backendRefs": [
                        {"name": "chat-canary", "port": 80, "weight": canary},
                        dict(BYSTANDER),
                        {"name": "chat-stable", "port": 80, "weight": stable},
                    ],
                },
            ],
        },
    }


class FakeRoutes:
    def __init__(self, route: Manifest | None) -> None:
        self.route = route
        self.services: dict[Side, str] = {}
        self.behind: dict[Side, str] = {}
        self.pods: dict[str, int] = {}
        self.accepts = True
        self.follows = True
        self.taken = False
        self.refuses_patches = False
        self.writes: list[str] = []
        self.reads = 0
        self.before: Callable[[str], None] = lambda what: None
        self.after_write: Callable[[], None] = lambda: None

    # The port.

    async def read_route(self, namespace: str, name: str) -> Manifest:
        self.before("read route")
        self.reads += 1
        if self.route is None or self.route["metadata"]["name"] != name:
            problem = TrafficProblem(Reason.ROUTE_MISSING, f"HTTPRoute {name} does not exist")
            raise UnusableRoute(problem)
        if self.accepts:
            self.accept()
        return copy.deepcopy(self.route)

    async def patch_route(
        self, namespace: str, name: str, operations: Sequence[Manifest]
    ) -> Manifest:
        self.before("patch route")
        if self.refuses_patches:
            raise UnusableRoute(TrafficProblem(Reason.ROUTE_REFUSED, "403 Forbidden"))
        assert self.route is not None
        try:
            changed = patch_object(self.route, operations)
        except DoesNotFit as error:
            raise Moved(str(error)) from error
        self._put(changed)
        self._wrote(f"weights {self.weights()}")
        return copy.deepcopy(self.route)

    async def point_service(self, owner: Owner, side: Side, revision: str) -> bool:
        self.before(f"point {side}")
        if self.taken:
            raise UnusableRoute(TrafficProblem(Reason.SERVICE_TAKEN, "belongs to another"))
        if self.services.get(side) == revision:
            return False
        self.services[side] = revision
        if self.follows:
            self.behind[side] = revision
        self._wrote(f"{side} -> {revision}")
        return True

    async def read_endpoints(self, owner: Owner, side: Side) -> frozenset[str]:
        self.before(f"look {side}")
        revision = self.behind.get(side)
        count = self.pods.get(revision or "", 0)
        return frozenset(f"{owner.name}-{revision}-{number}" for number in range(count))

    # What tests do and see.

    def edit(self, change: Callable[[Manifest], None]) -> None:
        """Somebody else edits the route."""
        assert self.route is not None
        changed = copy.deepcopy(self.route)
        change(changed)
        self._put(changed)

    def set_weights(self, stable: int, canary: int) -> None:
        def change(route: Manifest) -> None:
            for backend in route["spec"]["rules"][1]["backendRefs"]:
                if backend["name"] != "legacy":
                    backend["weight"] = canary if backend["name"] == "chat-canary" else stable

        self.edit(change)

    def accept(self) -> None:
        assert self.route is not None
        told = {
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "observedGeneration": self.route["metadata"]["generation"],
        }
        self.route["status"] = {"parents": [{"parentRef": {"name": "edge"}, "conditions": [told]}]}

    def weights(self) -> tuple[int, int]:
        """(stable, canary) of the rule that splits."""
        if self.route is None:
            return (0, 0)
        found = {b["name"]: b["weight"] for b in self.route["spec"]["rules"][1]["backendRefs"]}
        return (found["chat-stable"], found["chat-canary"])

    def exposure(self, revision: str) -> float:
        """0 to 1, of the users that the two Services share."""
        stable, canary = self.weights()
        total = stable + canary
        if not total:
            return 0.0
        return sum(
            weight / total
            for side, weight in zip(SIDES, (stable, canary), strict=True)
            if self.services.get(side) == revision
        )

    def _put(self, changed: Manifest) -> None:
        assert self.route is not None
        if changed["spec"] != self.route["spec"]:
            changed["metadata"]["generation"] += 1
        self.route = changed

    def _wrote(self, what: str) -> None:
        self.writes.append(what)
        self.after_write()
