"""Which gateway pods there are: the endpoints of the gateways' Service.

It decides that an endpoint counts while it is ready; one that leaves, or starts, is counted by the
traffic provider itself for as long as it is connected and serves. Read every two seconds from the
API server (one small list), because a rollback is done only when every one of them has confirmed.
Called by controller/operator.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.port import ENDPOINT_SLICE, KubeError, Reader

LOG: Final = logging.getLogger(__name__)

PERIOD: Final = 2.0
_SERVICE: Final = "kubernetes.io/service-name"


def read_gateways(slices: Iterable[Manifest]) -> frozenset[str]:
    """The names of the pods that are ready."""
    return frozenset(
        endpoint["targetRef"]["name"]
        for manifest in slices
        for endpoint in manifest.get("endpoints") or []
        if (endpoint.get("targetRef") or {}).get("kind") == "Pod"
        and (endpoint.get("conditions") or {}).get("ready") is not False
    )


class GatewayRoster:
    """Tells ``announce`` the gateways of one Service, again and again; ``on_change`` when they are
    others than before: what every deployment says of its traffic may be out of date."""

    def __init__(
        self,
        reader: Reader,
        namespace: str,
        service: str,
        announce: Callable[[Iterable[str]], None],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._reader = reader
        self._namespace = namespace
        self._service = service
        self._announce = announce
        self._on_change = on_change
        self._known: frozenset[str] | None = None
        self._failing = False

    async def read(self) -> None:
        """Read once. Raises what the API raises."""
        slices = await self._reader.list(ENDPOINT_SLICE, self._namespace, {_SERVICE: self._service})
        found = read_gateways(slices)
        self._announce(found)
        if self._known not in (None, found):
            names = {"gateways": ", ".join(sorted(found)) or "none"}
            LOG.info("Saw other gateways", extra=names)
            self._on_change()
        self._known = found

    async def run(self) -> None:
        """For ever; while the API server cannot be asked, the last answer stands."""
        while True:
            try:
                await self.read()
                self._failing = False
            except KubeError as error:
                if not self._failing:
                    LOG.warning("Failed to list the gateways", extra={"error": str(error)[:300]})
                self._failing = True
            await asyncio.sleep(PERIOD)
