"""The port to what the HTTPRoute provider reads and writes: a route, two Services, their endpoints.

Implemented over the Kubernetes API by controller/route_store; every write is the leader's alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llmrollouts.api.manifest import Manifest
from llmrollouts.resources.children import Owner
from llmrollouts.resources.services import Side


class Moved(Exception):
    """Somebody wrote first: read again and decide again, at once."""


class Unreachable(Exception):
    """No answer now; nothing is known. Try again later."""


class NotAllowed(Exception):
    """This process does not lead (any more): it may write nothing."""


class RouteStore(Protocol):
    """Raises the errors above, and weights.UnusableRoute where a person must do something."""

    async def read_route(self, namespace: str, name: str) -> Manifest:
        """The HTTPRoute as it is now."""

    async def patch_route(
        self, namespace: str, name: str, operations: Sequence[Manifest]
    ) -> Manifest:
        """The HTTPRoute after a JSON patch; a failed ``test`` raises Moved."""

    async def point_service(self, owner: Owner, side: Side, revision: str) -> bool:
        """Have the Service of one side select ``revision``; whether anything was written."""

    async def read_endpoints(self, owner: Owner, side: Side) -> frozenset[str]:
        """The names of the ready pods behind the Service of one side."""
