"""The operator's process: in which order its parts start, and how it ends.

    wait for the API server ── read all, program what is committed (shares 0) ── watch
        └── campaign ──> lead: certificates, read all again, program, let the gateways hear,
                         rounds for what is urgent, the others spread out
    leadership lost ──> a fresh process in its place, at once (controller/ending)
    a watch or a worker dead ──> exit 1, at once
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

from llmrollouts.controller.configuration import Configuration
from llmrollouts.controller.ending import Ending
from llmrollouts.controller.follow import DELAY
from llmrollouts.controller.health import (
    HealthPage,
    LoopMonitor,
    check_movement,
    check_rounds,
    check_watches,
)
from llmrollouts.controller.heap import Heap, find_trim
from llmrollouts.controller.keys import Key
from llmrollouts.controller.login import log_in
from llmrollouts.controller.parts import Hooks, Parts, assemble
from llmrollouts.controller.queue import Outcome
from llmrollouts.controller.takeover import Programmed
from llmrollouts.controller.telemetry import Telemetry
from llmrollouts.controller.watch import Watch
from llmrollouts.kube.connection import NoConnection
from llmrollouts.kube.elector import LeadershipLost
from llmrollouts.kube.port import LLM_DEPLOYMENT, KubeError, NotFound
from llmrollouts.traffic.tls import make_credentials

LOG: Final = logging.getLogger(__name__)

# The whole of a graceful stop takes less than 5 s.
_ROUNDS_GRACE: Final = 2.0
_EVENTS_GRACE: Final = 0.5
_LEASE_GRACE: Final = 1.5
_CLOSE_GRACE: Final = 0.5
_RETRY: Final = 0.5
_CERTIFICATES: Final = 3600.0
_REMIND: Final = 60.0
# An API server that answered nothing for this long counts as away.
_SILENCE: Final = 15.0
# Rounds of settled deployments, after a take-over for example: this many a second.
_SPREAD_RATE: Final = 10.0

# Parts that come to an end while the process goes on.
_FINITE: Final = frozenset({"start", "take-over", "fast lane"})

T = TypeVar("T")


class Operator:
    def __init__(
        self, configuration: Configuration, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._configuration = configuration
        self._telemetry = Telemetry(registry)
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answered_at = float("-inf")
        self._led = asyncio.Event()
        self._serving: int | None = None
        self._leading = False
        self._started = False

    async def run(self) -> Ending:
        """How it ended, when it has."""
        self._take_signals()
        hooks = Hooks(
            end=self.end,
            lead=lambda epoch: self._spawn("take-over", self._lead(epoch)),
            round=self._round,
            nudge=self._nudge,
            gateways_changed=lambda: self._spread(self._parts.reconciler.known()),
            on_request=self._count_request,
        )
        try:
            self._parts = await assemble(self._configuration, self._telemetry, hooks)
        except NoConnection as error:
            self.end(Ending.FAILED, str(error))
            return Ending.FAILED
        self._page = self._make_page(self._parts)
        try:
            await self._page.start(self._configuration.http_host, self._configuration.http_port)
            self._spawn("start", self._start())
            return await self._ended
        finally:
            await self._stop()

    # How it ends.

    def end(self, ending: Ending, reason: str) -> None:
        """Have ``run`` return; the first reason counts."""
        if not self._ended.done():
            level = logging.INFO if ending is Ending.STOPPED else logging.ERROR
            LOG.log(level, "Ended the operator", extra={"how": ending.value, "reason": reason})
            self._ended.set_result(ending)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end, Ending.STOPPED, f"received {number.name}")

    async def _stop(self) -> None:
        parts = self._parts
        if self._ended.done() and self._ended.result() is Ending.STOPPED:
            if not await parts.queue.stop(_ROUNDS_GRACE):
                LOG.warning("Stopped with rounds running", extra={"rounds": parts.queue.running})
            await parts.events.flush(_EVENTS_GRACE)
            await _bounded(parts.elector.release(), _LEASE_GRACE)
        else:
            # Not leading any more: no stream may hear another word of this process.
            parts.traffic.restrict()
        for task in self._tasks:
            task.cancel()
        await _bounded(parts.gate_engine.stop(), _CLOSE_GRACE)
        await _bounded(parts.routes.stop(), _CLOSE_GRACE)
        await _bounded(parts.traffic.stop(), _CLOSE_GRACE)
        await _bounded(self._page.stop(), _CLOSE_GRACE)

    # What it shows.

    def _make_page(self, parts: Parts) -> HealthPage:
        show, each, queue = self._telemetry.show, self._telemetry.show_each, parts.queue
        elector, ages = parts.elector, parts.ages
        show("leader", "1 while this replica leads.", lambda: float(elector.is_leader()))
        show("epoch", "How often leadership has changed.", lambda: float(elector.epoch))
        show("queue_depth", "Keys that wait for a worker.", lambda: float(queue.depth))
        show("queue_oldest_seconds", "Age of the longest waiting key.", queue.oldest_waiting)
        show("round_oldest_seconds", "Age of the oldest running round.", queue.longest_running)
        show("queue_backing_off", "Keys whose last round failed.", lambda: float(queue.backing_off))
        each("watch_age_seconds", "Since a watch last showed life.", "kind", ages.age)
        each("watch_lag_seconds", "How long a watch is behind.", "kind", ages.lag)
        return HealthPage(
            self._telemetry.registry,
            alive=(
                check_rounds(queue.longest_running),
                check_movement(queue.oldest_waiting, queue.seconds_since_start),
                check_watches(ages.age, ages.lag, self._api_answers),
            ),
            ready=(lambda: None if self._started else "the deployments are not read yet",),
        )

    def _count_request(self, verb: str, kind: str, code: int, seconds: float) -> None:
        self._telemetry.count_request(verb, kind, code, seconds)
        if code:
            self._answered_at = time.monotonic()

    def _api_answers(self) -> bool:
        return time.monotonic() - self._answered_at < _SILENCE

    # How it starts.

    async def _start(self) -> None:
        self._spawn("loop monitor", LoopMonitor(self._telemetry.loop_lag.set).run())
        self._spawn("heap", Heap(find_trim()).run())
        await self._wait_for_api()
        self._adopt(await self._insist("read the deployments", lambda: self._program(None)))
        self._spawn("queue", self._parts.queue.run())
        watch = Watch(
            lambda: log_in(self._configuration.kubeconfig),
            self._configuration.namespaces,
            self._nudge,
            self._parts.versions,
            self._parts.ages,
            commanded=self._take_command,
            on_started=self._take_signals,
        )
        self._spawn("watch", watch.run())
        self._spawn("gateways", self._parts.roster.run())
        self._spawn("events", self._parts.events.run())
        self._spawn("resync", self._parts.resync.run())
        self._spawn("certificates", self._keep_certificates())
        self._spawn("elector", self._parts.elector.run())
        self._started = True

    async def _wait_for_api(self) -> None:
        """An API server that is away at the start is waited for, and said once a minute."""
        said_at = float("-inf")
        while True:
            try:
                for place in self._configuration.namespaces or (None,):
                    await self._parts.client.list(LLM_DEPLOYMENT, place)
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
                if self._parts.elector.is_leader():
                    await self._parts.keys.ensure()
                else:
                    await self._parts.keys.load()
                if self._serving is None and self._parts.keys.there():
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
        credentials = make_credentials(self._parts.keys) if given.xds_tls else None
        address = f"{given.xds_host}:{given.xds_port}"
        self._serving = await self._parts.traffic.start(address, credentials)
        await self._insist("list the gateways", self._parts.roster.read)
        self._parts.traffic.open()
        LOG.info("Opened the xDS port", extra={"port": self._serving})

    async def _lead(self, epoch: int) -> None:
        self._led.set()
        began = time.monotonic()
        await self._insist("list the gateways", self._parts.roster.read)
        found = await self._insist("read the deployments", lambda: self._program(epoch))
        self._parts.leadership.take_over()
        self._leading = True
        self._adopt(found)
        for key in found.urgent | found.failed:
            self._parts.queue.nudge(key)
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
        return await self._parts.take_over.program_all(epoch)

    def _adopt(self, found: Programmed) -> None:
        for key in self._parts.reconciler.known() - found.uids.keys():
            self._parts.reconciler.forget(key)
        for key, uid in found.uids.items():
            self._parts.reconciler.adopt(key, uid)

    # What runs.

    async def _round(self, key: Key) -> Outcome:
        if self._leading:
            await self._parts.fast_lane.give_way()
            return await self._parts.reconciler.reconcile(key)
        return await self._parts.follower.follow(key)

    def _nudge(self, key: Key) -> None:
        if self._leading:
            self._parts.queue.nudge(key)
        else:
            self._parts.queue.wake_after(key, DELAY)

    def _take_command(self, key: Key) -> None:
        """A command stands on the object: if users may have to go back, they go first."""
        lane, uid = self._parts.fast_lane, self._parts.reconciler.uid_of(key)
        if self._leading and lane.is_open(key, uid):
            self._spawn("fast lane", self._look_then_nudge(key))
        else:
            self._nudge(key)

    async def _look_then_nudge(self, key: Key) -> None:
        await self._parts.fast_lane.look(key)
        self._nudge(key)

    def _spread(self, keys: Collection[Key]) -> None:
        """A round for each of these, without haste."""
        for number, key in enumerate(sorted(keys)):
            self._parts.queue.wake_after(key, (number + 1) / _SPREAD_RATE)

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
            self.end(Ending.DEPOSED, f"leadership lost: {error}")
        except Exception as error:
            LOG.exception("Failed beyond repair", extra={"part": name})
            self.end(Ending.FAILED, f"{name} failed: {error}")
        else:
            if name not in _FINITE:
                self.end(Ending.FAILED, f"{name} ended")


async def _bounded(work: Awaitable[None], seconds: float) -> None:
    """What is not done in time is left undone: the process ends anyway."""
    try:
        await asyncio.wait_for(work, seconds)
    except TimeoutError:
        LOG.warning("Left something undone at the end", extra={"seconds": seconds})
