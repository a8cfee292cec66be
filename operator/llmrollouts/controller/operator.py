"""The operator's process: which parts there are, in which order they start, and how it ends.

    wait for the API server ── read all, program what is committed (shares 0) ── watch
        └── campaign ──> lead: certificates, read all again, program, let the gateways hear,
                         rounds for what is urgent, the others spread out
    leadership lost, a watch or a worker dead ──> exit 1, at once
    SIGTERM ──> running rounds end, Lease released, streams closed, exit 0 within 5 s

It decides nothing about deployments. Called by controller/main.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Final, TypeVar

from prometheus_client import REGISTRY, CollectorRegistry

from llmrollouts.controller.act import Actor
from llmrollouts.controller.children import ChildrenKeeper
from llmrollouts.controller.complaints import Complaints
from llmrollouts.controller.configuration import Configuration
from llmrollouts.controller.credentials import XdsKeys
from llmrollouts.controller.events import EventRecorder
from llmrollouts.controller.fence import FencedWriter
from llmrollouts.controller.follow import DELAY, Follower
from llmrollouts.controller.gates import NoGates
from llmrollouts.controller.gateways import GatewayRoster
from llmrollouts.controller.health import (
    HealthPage,
    LoopMonitor,
    check_movement,
    check_rounds,
    check_watches,
)
from llmrollouts.controller.keys import Key
from llmrollouts.controller.leadership import ElectedLeadership
from llmrollouts.controller.login import log_in
from llmrollouts.controller.observe import Observer
from llmrollouts.controller.queue import Outcome, WorkQueue
from llmrollouts.controller.reconcile import Reconciler
from llmrollouts.controller.resync import Resync
from llmrollouts.controller.takeover import Programmed, TakeOver
from llmrollouts.controller.telemetry import Telemetry
from llmrollouts.controller.versions import Versions
from llmrollouts.controller.watch import WATCHED, Watch
from llmrollouts.controller.watch_age import WatchAges
from llmrollouts.kube.client import KubeClient
from llmrollouts.kube.connection import connect
from llmrollouts.kube.elector import Elector, LeadershipLost, make_identity
from llmrollouts.kube.port import LLM_DEPLOYMENT, KubeError, NotFound
from llmrollouts.rollout.plan import plan
from llmrollouts.traffic.gateway import EnvoyTraffic
from llmrollouts.traffic.tls import make_credentials

LOG: Final = logging.getLogger(__name__)

# The whole of a graceful stop takes less than 5 s.
_ROUNDS_GRACE: Final = 2.0
_EVENTS_GRACE: Final = 0.5
_LEASE_GRACE: Final = 1.5
_RETRY: Final = 0.5
_CERTIFICATES: Final = 3600.0
_REMIND: Final = 60.0
# An API server that answered nothing for this long counts as away.
_SILENCE: Final = 15.0
# Rounds of settled deployments, after a take-over for example: this many a second.
_SPREAD_RATE: Final = 10.0


# Parts that come to an end while the process goes on.
_FINITE: Final = frozenset({"start", "take-over"})

T = TypeVar("T")


class Operator:
    def __init__(
        self, configuration: Configuration, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._configuration = configuration
        self._telemetry = Telemetry(registry)
        self._ages = WatchAges(WATCHED)
        self._versions = Versions()
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answered_at = float("-inf")
        self._led = asyncio.Event()
        self._serving: int | None = None
        self._leading = False
        self._started = False

    async def run(self) -> int:
        """The exit code: 0 after SIGTERM, 1 when this process must not go on."""
        self._take_signals()
        try:
            await self._assemble()
            self._spawn("start", self._start())
            return await self._ended
        finally:
            await self._stop()

    # How it ends.

    def end(self, code: int, reason: str) -> None:
        """Have ``run`` return; the first reason counts."""
        if not self._ended.done():
            level = logging.INFO if code == 0 else logging.ERROR
            LOG.log(level, "Ended the operator", extra={"code": code, "reason": reason})
            self._leading = False
            self._ended.set_result(code)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end, 0, f"received {number.name}")

    async def _stop(self) -> None:
        graceful = self._ended.done() and self._ended.result() == 0
        if graceful:
            if not await self._queue.stop(_ROUNDS_GRACE):
                LOG.warning("Stopped with rounds running", extra={"rounds": self._queue.running})
            await self._events.flush(_EVENTS_GRACE)
            try:
                await asyncio.wait_for(self._elector.release(), _LEASE_GRACE)
            except TimeoutError:
                LOG.warning("Left the lease to run out")
        else:
            # Not leading any more: no stream may hear another word of this process.
            self._traffic.restrict()
        for task in self._tasks:
            task.cancel()
        await self._traffic.stop()
        await self._health.stop()

    # What there is.

    async def _assemble(self) -> None:
        given = self._configuration
        self._client = KubeClient(await connect(given.kubeconfig), self._count_request)
        self._lease_client = KubeClient(
            await connect(given.kubeconfig), self._count_request, connections=2
        )
        self._elector = Elector(
            self._lease_client,
            given.namespace,
            given.lease,
            make_identity(given.pod, given.pod_uid),
            on_started=lambda epoch: self._spawn("take-over", self._lead(epoch)),
            on_stopped=lambda reason: self.end(1, f"leadership lost: {reason}"),
        )
        self._leadership = ElectedLeadership(self._elector)
        self._traffic = EnvoyTraffic(self._leadership, given.gateways)
        writer = FencedWriter(self._client, self._leadership)
        self._keys = XdsKeys(self._client, writer, given.namespace)
        self._events = EventRecorder(writer, given.pod, on_lost=self._telemetry.count_lost_event)
        observer = Observer(
            self._client, self._traffic, NoGates(), self._versions, self._ages.note_read
        )
        complaints = Complaints(self._client, writer, self._events, self._versions)
        children = ChildrenKeeper(self._client, writer, self._versions)
        actor = Actor(
            writer,
            children,
            self._traffic,
            self._leadership,
            self._events,
            self._versions,
            self._telemetry,
        )
        self._reconciler = Reconciler(
            observer,
            plan,
            actor,
            complaints,
            self._traffic,
            given.workers,
            self._leadership,
            self._telemetry,
            self._versions,
            stop=lambda reason: self.end(1, reason),
        )
        self._follower = Follower(observer, self._reconciler, self._traffic, given.workers)
        self._queue: WorkQueue[Key] = WorkQueue(self._round, given.rounds)
        self._take_over = TakeOver(
            self._client, observer, plan, self._traffic, given.workers, given.namespaces
        )
        self._roster = GatewayRoster(
            self._client,
            given.namespace,
            given.gateway_service,
            self._traffic.set_gateways,
            on_change=lambda: self._spread(self._reconciler.known()),
        )
        self._show()
        self._health = HealthPage(
            self._telemetry.registry,
            alive=(
                check_rounds(self._queue.longest_running),
                check_movement(self._queue.oldest_waiting, self._queue.seconds_since_start),
                check_watches(self._ages.age, self._ages.lag, self._api_answers),
            ),
            ready=(lambda: None if self._started else "the deployments are not read yet",),
        )
        await self._health.start(given.http_host, given.http_port)

    def _show(self) -> None:
        show, queue = self._telemetry.show, self._queue
        show("leader", "1 while this replica leads.", lambda: float(self._elector.is_leader()))
        show("epoch", "How often leadership has changed.", lambda: float(self._elector.epoch))
        show("queue_depth", "Keys that wait for a worker.", lambda: float(queue.depth))
        show("queue_oldest_seconds", "Age of the longest waiting key.", queue.oldest_waiting)
        show("round_oldest_seconds", "Age of the oldest running round.", queue.longest_running)
        show("queue_backing_off", "Keys whose last round failed.", lambda: float(queue.backing_off))
        each = self._telemetry.show_each
        each("watch_age_seconds", "Since a watch last showed life.", "kind", self._ages.age)
        each("watch_lag_seconds", "How long a watch is behind.", "kind", self._ages.lag)

    def _count_request(self, verb: str, kind: str, code: int, seconds: float) -> None:
        self._telemetry.count_request(verb, kind, code, seconds)
        if code:
            self._answered_at = time.monotonic()

    def _api_answers(self) -> bool:
        return time.monotonic() - self._answered_at < _SILENCE

    # How it starts.

    async def _start(self) -> None:
        self._spawn("loop monitor", LoopMonitor(self._telemetry.loop_lag.set).run())
        await self._wait_for_api()
        self._adopt(await self._insist("read the deployments", lambda: self._program(None)))
        self._spawn("queue", self._queue.run())
        watch = Watch(
            lambda: log_in(self._configuration.kubeconfig),
            self._configuration.namespaces,
            self._nudge,
            self._versions,
            self._ages,
            on_started=self._take_signals,
        )
        self._spawn("watch", watch.run())
        self._spawn("gateways", self._roster.run())
        self._spawn("events", self._events.run())
        resync = Resync(
            self._client,
            self._configuration.namespaces,
            self._versions,
            self._reconciler.known,
            self._nudge,
        )
        self._spawn("resync", resync.run())
        self._spawn("certificates", self._keep_certificates())
        self._spawn("elector", self._elector.run())
        self._started = True

    async def _wait_for_api(self) -> None:
        """An API server that is away at the start is waited for, and said once a minute."""
        said_at = float("-inf")
        while True:
            try:
                for place in self._configuration.namespaces or (None,):
                    await self._client.list(LLM_DEPLOYMENT, place)
                return
            except NotFound as error:
                problem = f"{error}: is the CustomResourceDefinition installed?"
            except KubeError as error:
                problem = str(error)
            if time.monotonic() - said_at >= _REMIND:
                said_at = time.monotonic()
                LOG.warning("Waited for the API server", extra={"error": problem[:500]})
            await asyncio.sleep(_RETRY * random.uniform(1, 2))  # noqa: S311

    async def _keep_certificates(self) -> None:
        """Load the keys, make or renew them while leading, and open the xDS port with them."""
        if not self._configuration.xds_tls:
            await self._serve()
        while not self._ended.done():
            try:
                if self._elector.is_leader():
                    await self._keys.ensure()
                else:
                    await self._keys.load()
                if self._serving is None and self._keys.there():
                    await self._serve()
                pause = _CERTIFICATES if self._serving is not None else _RETRY
            except NotFound:
                pause = _RETRY  # the first leader makes them
            except KubeError as error:
                LOG.warning("Failed to keep the certificates", extra={"error": str(error)[:300]})
                pause = _RETRY * 4
            await self._wait_for_lead(pause)

    async def _wait_for_lead(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._led.wait()
        except TimeoutError:
            return
        self._led.clear()

    async def _serve(self) -> None:
        given = self._configuration
        credentials = make_credentials(self._keys) if given.xds_tls else None
        address = f"{given.xds_host}:{given.xds_port}"
        self._serving = await self._traffic.start(address, credentials)
        await self._insist("list the gateways", self._roster.read)
        self._traffic.open()
        LOG.info("Opened the xDS port", extra={"port": self._serving})

    async def _lead(self, epoch: int) -> None:
        self._led.set()
        began = time.monotonic()
        await self._insist("list the gateways", self._roster.read)
        found = await self._insist("read the deployments", lambda: self._program(epoch))
        self._leadership.take_over()
        self._leading = True
        self._adopt(found)
        for key in found.urgent | found.failed:
            self._queue.nudge(key)
        self._spread(found.uids.keys() - found.urgent - found.failed)
        names = {
            "epoch": epoch,
            "deployments": len(found.uids),
            "urgent": len(found.urgent),
            "failed": len(found.failed),
            "seconds": round(time.monotonic() - began, 3),
        }
        LOG.info("Took over", extra=names)

    async def _program(self, epoch: int | None) -> Programmed:
        return await self._take_over.program_all(epoch)

    def _adopt(self, found: Programmed) -> None:
        for key in self._reconciler.known() - found.uids.keys():
            self._reconciler.forget(key)
        for key, uid in found.uids.items():
            self._reconciler.adopt(key, uid)

    # What runs.

    async def _round(self, key: Key) -> Outcome:
        if self._leading:
            return await self._reconciler.reconcile(key)
        return await self._follower.follow(key)

    def _nudge(self, key: Key) -> None:
        if self._leading:
            self._queue.nudge(key)
        else:
            self._queue.wake_after(key, DELAY)

    def _spread(self, keys: Collection[Key]) -> None:
        """A round for each of these, without haste."""
        for number, key in enumerate(sorted(keys)):
            self._queue.wake_after(key, (number + 1) / _SPREAD_RATE)

    async def _insist(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until the API server answers."""
        while True:
            try:
                return await attempt()
            except KubeError as error:
                LOG.warning(f"Failed to {what}", extra={"error": str(error)[:300]})
                await asyncio.sleep(_RETRY)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """A part of the process: when it ends before the process does, the process ends."""
        task = asyncio.get_running_loop().create_task(self._guard(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except LeadershipLost as error:
            self.end(1, f"leadership lost: {error}")
        except Exception as error:
            LOG.exception("Failed beyond repair", extra={"part": name})
            self.end(1, f"{name} failed: {error}")
        else:
            if name not in _FINITE:
                self.end(1, f"{name} ended")
