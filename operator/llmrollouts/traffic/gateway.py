"""The Envoy gateway as a traffic provider: the adapter behind ``TrafficPort``.

Theory of operation. The controller says what it wants (``program``) and, after each completed
round on fresh evidence, that it still decides (``renew``). Both only write into the catalogue and
wake the streams; all that is written within one turn of the event loop becomes one message. A
share is in the layer only while its lease holds: without ``renew`` for 8 s this process itself
sends 0; without any message for 12 s (the TTL) the proxies take it to 0. Nothing here raises a
share that the controller did not ask for, and nothing here decides one.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final

from llmrollouts.rollout.intent import DeploymentTraffic, RequestCounts, TrafficObservation
from llmrollouts.traffic import telemetry
from llmrollouts.traffic.ads import ConfigurationService
from llmrollouts.traffic.authority import Authority, Leadership
from llmrollouts.traffic.catalogue import Catalogue
from llmrollouts.traffic.gateways import Gateways
from llmrollouts.traffic.kinds import Kind
from llmrollouts.traffic.leases import ShareLeases
from llmrollouts.traffic.load import LoadBook
from llmrollouts.traffic.lrs import LoadReportService
from llmrollouts.traffic.server import make_server
from llmrollouts.traffic.settings import GatewaySettings

log = logging.getLogger(__name__)

# How often streams look at the time: for heartbeats, expired leases and a lost leadership.
_TICK: Final = 0.25
_IDLE_TICK: Final = 1.0


class EnvoyTraffic:
    """Implements TrafficPort. Use from one event loop.

    Life: construct, ``await start(address, credentials)``, ``program`` every deployment that
    exists, ``set_gateways``, ``open()``; then rounds; ``await stop()`` at the end. Streams are
    refused until ``open()``.
    """

    def __init__(
        self,
        leadership: Leadership,
        settings: GatewaySettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        now = clock()
        self._clock = clock
        self._authority = Authority(leadership)
        settings = settings or GatewaySettings()
        self._catalogue = Catalogue(settings)
        self._gateways = Gateways(self._catalogue, now)
        self._leases = ShareLeases(settings.timing.lease)
        self._book = LoadBook(now)
        self._configuration = ConfigurationService(
            self._catalogue, self._gateways, self._authority, clock
        )
        self._reports = LoadReportService(self._catalogue, self._book, self._authority, clock)
        self._server: Any = None
        self._ticker: asyncio.Task[None] | None = None
        self._source = uuid.uuid4().hex[:12]

    async def start(self, address: str, credentials: Any = None) -> int:
        """Listen at ``address`` (``host:port``, port 0 for any) and return the port.

        credentials: from tls.make_credentials; None serves without TLS, for tests on loopback.
        """
        server = make_server(
            self._configuration.serve,
            self._reports.serve,
            check_identity=credentials is not None,
        )
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
        await server.start()
        self._server = server
        self._ticker = asyncio.create_task(self._tick())
        return int(port)

    async def stop(self) -> None:
        """Close every stream at once; the gateways keep what they have until its TTL."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
            self._ticker = None
        if self._server is not None:
            await self._server.stop(grace=0)
            self._server = None

    def open(self) -> None:
        """Every deployment is known: streams are answered from now on."""
        self._gateways.opened_generation = self._catalogue.generation[Kind.ROUTES]
        self._authority.open()

    def set_gateways(self, names: Iterable[str]) -> None:
        """The ready endpoints (pod names) of the gateways' Service."""
        self._gateways.expect(frozenset(names))

    def program(self, traffic: DeploymentTraffic) -> None:
        """Ask for ``traffic`` from now on; its shares take effect while its lease holds.

        Raises ValueError for a value that no proxy could follow; what was there before stays.
        """
        entry = self._catalogue.entries.get(traffic.uid)
        if entry is not None and entry.translation.traffic == traffic:
            return
        self._catalogue.put(traffic)
        self._allow(traffic.uid)

    def renew(self, uid: str) -> None:
        """A round was completed on fresh evidence."""
        self._leases.renew(uid, self._clock())
        self._allow(uid)

    def forget(self, uid: str) -> None:
        self._catalogue.remove(uid)
        self._leases.drop(uid)
        self._book.forget(uid)
        self._configuration.wake()

    def restrict(self) -> None:
        """Leadership is lost: every share is 0 here until it is renewed, and every stream ends."""
        for uid in list(self._catalogue.entries):
            self._leases.drop(uid)
            self._catalogue.allow(uid, shares=False)
        self._configuration.close_all()
        self._reports.close_all()

    def observe(self, uid: str) -> TrafficObservation:
        now = self._clock()
        entry = self._catalogue.entries.get(uid)
        if entry is None:
            return TrafficObservation(gateways=len(self._gateways.counted()), source=self._source)
        settlement = self._gateways.settlement(uid, now)
        in_effect = dict(entry.effective) == dict(entry.translation.fractions)
        recent = self._book.recent(uid, now)
        living = [revision.revision for revision in entry.translation.traffic.revisions]
        return TrafficObservation(
            programmed=entry.translation.traffic,
            settled=self._gateways.known and settlement.complete and in_effect,
            gateways=settlement.gateways,
            settled_gateways=settlement.settled if in_effect else 0,
            report_age=self._book.report_age(self._gateways.counted(), now),
            quiet_seconds=dict.fromkeys(living) | self._book.quiet_seconds(uid, now),
            counts=dict.fromkeys(living, RequestCounts()) | self._book.counts(uid),
            recent_live=recent.live,
            recent_mirrored=recent.mirrored,
            recent_rate=recent.rate,
            source=self._source,
            refusals=self._gateways.refusals(),
        )

    def _allow(self, uid: str) -> None:
        self._catalogue.allow(uid, shares=self._leases.holds(uid, self._clock()))
        self._configuration.wake()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK if self._catalogue.has_shares else _IDLE_TICK)
            for uid in self._leases.take_expired(self._clock()):
                entry = self._catalogue.entries.get(uid)
                if entry is not None and entry.effective:
                    telemetry.EXPIRED_LEASES.inc()
                    log.error(
                        "Set the shares of a deployment to 0: no round renewed their lease",
                        extra={"deployment": entry.translation.traffic.name, "uid": uid},
                    )
                self._catalogue.allow(uid, shares=False)
            self._configuration.wake()
