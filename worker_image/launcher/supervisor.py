"""The worker's life, from start to exit code.

    verify small files -> start engine, verify weights -> warm up -> serve (idle probes)
                                                                      |
            /drain (preStop) or SIGTERM: not ready at once, wait for the proxies
                                                                      |
                     SIGTERM to the engine, which finishes what it has -> exit 0

At any point the engine's own death, a wrong checksum or a missing model ends it with a code and a
message (`failure.py`). The order on the way out is the point: the worker first says that it is not
ready, then gives the proxies `drain_wait` seconds to send nobody here any more, and only then the
engine is told to stop, because vLLM refuses requests that come after its SIGTERM.

A drain that no SIGTERM follows within `drain_lapse` seconds is taken back: `/drain` is reachable
on the pod network, and a stray call must not take a worker out of service for ever.

This module decides nothing about traffic, reads no Kubernetes object and knows nothing of roles.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time

from . import checksums, idle_probe
from .config import Config
from .engine_process import EngineProcess, Reaper, make_command, make_environment, start_engine
from .failure import (
    ENGINE_STOPPED_UNASKED,
    KILLED_WHILE_STOPPING,
    START_TIMED_OUT,
    Failure,
)
from .http_client import RequestFailed
from .http_server import HttpServer, Page
from .pages import make_pages
from .sampler import Sampler
from .state import WorkerState
from .tasks import end_tasks

log = logging.getLogger("launcher")

HEALTH_POLL_SECONDS = 0.25
HEALTH_TIMEOUT_SECONDS = 5.0
WARMUP_PAUSE_SECONDS = 1.0
OUTPUT_SECONDS = 1.0
# An engine that ends by the very signal we sent, or cleanly, did what it was asked.
CLEAN_STOP_CODES = (0, 128 + signal.SIGTERM, 128 + signal.SIGINT)


class Supervisor:
    """Runs one worker; `run` returns the exit code or raises `Failure`."""

    def __init__(self, config: Config, environment: dict[str, str]) -> None:
        self._config = config
        self._environment = environment
        self._sampler = Sampler()
        self._client = idle_probe.EngineClient(config, self._sampler.token)
        self._reaper = Reaper()
        self._cancel_verification = threading.Event()
        self._stop = asyncio.Event()
        self._life: asyncio.Future[None] | None = None
        self.state = WorkerState(config)

    async def run(self) -> int:
        """Serve until told to stop or until something gives way."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reaper.collect)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._request_stop, number)
        pages = make_pages(self.state, self._sampler, self._client, self._drain_for_prestop)
        server = HttpServer(pages)
        await server.start(self._config.listen_host, self._config.launcher_port)
        log.info("Listened on port %d", self._config.launcher_port)
        life = self._life = asyncio.ensure_future(self._live())
        stop = asyncio.ensure_future(self._wait_for_stop())
        try:
            await asyncio.wait([life, stop], return_when=asyncio.FIRST_COMPLETED)
            if life.done() and not self._stop.is_set():
                life.result()  # raises what ended it; _live never returns by itself
            return await self._leave()
        finally:
            self._cancel_verification.set()
            await end_tasks([life, stop])
            await self._let_output_through()
            server.close()
            self._sampler.close()

    def engine_tail(self, limit: int) -> str:
        """The engine's last lines, at most `limit` bytes."""
        return "" if self.state.engine is None else self.state.engine.tail.text(limit)

    # -- from start to serving ------------------------------------------------------------------

    async def _live(self) -> None:
        model = self._config.model
        checksums.require_model(model)
        found = checksums.find_local_files(model)
        self.state.files.expect(found)
        self.state.files_verified = not model.checksums
        small, large = checksums.split_by_size(found)
        await self._verify(small)
        self._sampler.begin_life()
        tap = self._sampler.open() if self._config.tap else None
        command = make_command(self._config, tapped=tap is not None)
        environment = make_environment(self._environment, tap)
        engine = self.state.engine = start_engine(command, environment)
        self._reaper.watch(engine)
        log.info("Started the engine, process %d: %s", engine.pid, " ".join(command))
        self.state.phase = "loading"
        steps = [
            asyncio.ensure_future(self._verify(large)),
            asyncio.ensure_future(self._bring_up()),
            asyncio.ensure_future(self._raise_at_end_of(engine)),
        ]
        pending = set(steps)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            await end_tasks(steps)

    async def _raise_at_end_of(self, engine: EngineProcess) -> None:
        """An engine that ends unasked ends the worker; an asked end is `_leave`'s business."""
        code = await asyncio.shield(engine.ended)
        await self._let_output_through()
        if code == 0:
            raise Failure(ENGINE_STOPPED_UNASKED, "the engine stopped by itself with exit code 0")
        how = f"signal {code - 128}" if code > 128 else f"exit code {code}"
        when = "while it served" if self.state.warmed_up else "before it was ready"
        raise Failure(code, f"the engine ended with {how} {when}")

    async def _verify(self, files: list[checksums.FoundFile]) -> None:
        if files:
            await asyncio.get_running_loop().run_in_executor(
                None, checksums.verify_files, files, self.state.files, self._cancel_verification
            )
            if self.state.files.complete:
                self.state.files_verified = True
                self.state.note_readiness()

    async def _bring_up(self) -> None:
        """From a started process to a serving one, and then the probes for ever."""
        await self._wait_until_healthy()
        self.state.engine_answered = True
        if self._config.model.kind == "hub":
            # The engine has downloaded its files only now.
            found = checksums.find_downloaded_files(self._config.model)
            self.state.files.expect(found)
            await self._verify(found)
        await self._warm_up()
        if self._config.tap and not self._sampler.heard:
            log.warning("Heard nothing from the tap: requests of this engine are not measured")
        self.state.phase = "serving"
        self.state.note_readiness()
        await self._probe_for_ever()

    async def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self._config.start_timeout
        # Polling is the only way: the engine announces nothing.
        while not await self._client.is_healthy(HEALTH_TIMEOUT_SECONDS):
            if time.monotonic() > deadline:
                raise Failure(
                    START_TIMED_OUT,
                    f"the engine did not answer /health within {self._config.start_timeout:g} s of "
                    "its start; raise startTimeoutSeconds if the model needs longer to load",
                )
            await asyncio.sleep(HEALTH_POLL_SECONDS)
        log.info("The engine answered after %.1f s", self.state.age())

    async def _warm_up(self) -> None:
        """Generate before anyone else does; until it works the worker stays not ready.

        The first request asks for log probabilities: the first such request compiles code in the
        engine, which froze vLLM's CPU build for 17 s, and no user shall pay for that.
        """
        self.state.phase = "warming up"
        warmup = self._config.warmup
        logprobs = True
        done = 0
        while done < warmup.requests:
            started = time.monotonic()
            try:
                status = await self._client.generate(
                    warmup.max_tokens, warmup.timeout, logprobs=logprobs
                )
                problem = "" if status == 200 else f"the engine answered {status}"
                logprobs = logprobs and status >= 500  # an engine may refuse them (--max-logprobs)
            except RequestFailed as error:
                problem = str(error)
            if problem:
                log.warning("Warm-up failed, trying again: %s", problem)
                await asyncio.sleep(WARMUP_PAUSE_SECONDS)
                continue
            done += 1
            seconds = time.monotonic() - started
            log.info("Warmed up, request %d of %d took %.2f s", done, warmup.requests, seconds)
        self.state.warmed_up = True

    async def _probe_for_ever(self) -> None:
        settings = self._config.idle_probe
        last = time.monotonic()
        while True:
            await asyncio.sleep(settings.interval)
            try:
                load = await self._client.load(settings.timeout)
            except RequestFailed as error:
                last = time.monotonic()
                self.state.record_probe(
                    idle_probe.ProbeResult(False, settings.timeout, error=str(error))
                )
                continue
            since_last = time.monotonic() - last
            if idle_probe.should_probe(load, since_last, self.state.probe_failures, settings):
                last = time.monotonic()
                idle = load in (0, None)
                self.state.record_probe(
                    await idle_probe.probe(self._client, settings.timeout, idle=idle)
                )

    async def _wait_for_stop(self) -> None:
        await self._stop.wait()

    # -- leaving --------------------------------------------------------------------------------

    def _request_stop(self, number: int) -> None:
        if not self._stop.is_set():
            log.info("Received %s", signal.Signals(number).name)
        self.state.stopping = True
        self._stop.set()

    def _begin_drain(self) -> float:
        """Not ready from now on; the monotonic time at which the proxies have had their wait."""
        if self.state.drain_started is None:
            self.state.drain_started = time.monotonic()
            self.state.note_readiness()
            log.info("Began to drain, waiting %g s for the proxies", self._config.drain_wait)
        return self.state.drain_started + self._config.drain_wait

    async def _drain_for_prestop(self, _query: str) -> Page:
        until = self._begin_drain()
        await asyncio.sleep(max(0.0, until - time.monotonic()))
        asyncio.get_running_loop().call_later(self._config.drain_lapse, self._lapse, until)
        return Page(200, "drained\n")

    def _lapse(self, until: float) -> None:
        """Take a drain back that nobody followed up."""
        drain_started = self.state.drain_started
        if self._stop.is_set() or drain_started is None:
            return
        if drain_started + self._config.drain_wait != until:
            return  # this timer belongs to an earlier drain
        self.state.drain_started = None
        log.warning(
            "Took the drain back: no SIGTERM followed within %g s", self._config.drain_lapse
        )
        self.state.note_readiness()

    async def _leave(self) -> int:
        """Drain, stop the engine, and say how it went."""
        until = self._begin_drain()
        engine = self.state.engine
        was_serving = self.state.warmed_up and engine is not None
        if engine is not None and was_serving:
            await asyncio.wait(
                [asyncio.shield(engine.ended)], timeout=max(0.0, until - time.monotonic())
            )
        self.state.phase = "stopping"
        self._cancel_verification.set()
        if self._life is not None:
            # No probe may reach an engine that has been told to stop: it would count as a failure.
            await end_tasks([self._life])
        if engine is None:
            return 0
        if not was_serving:
            # Nobody was ever sent here: nothing to finish, so nothing to wait for.
            engine.kill_group()
            await engine.ended
            return 0
        if not engine.running:
            code = engine.ended.result()
            raise Failure(code or ENGINE_STOPPED_UNASKED, f"the engine died ({code}) in the drain")
        engine.terminate()
        patience = self._config.shutdown_timeout + self._config.kill_margin
        try:
            code = await asyncio.wait_for(asyncio.shield(engine.ended), patience)
        except asyncio.TimeoutError as error:
            engine.kill_group()
            await engine.ended
            raise Failure(
                KILLED_WHILE_STOPPING,
                f"the engine did not stop within {patience:g} s of SIGTERM and was killed; "
                "requests in flight were cut",
            ) from error
        if code not in CLEAN_STOP_CODES:
            raise Failure(code, f"the engine ended with exit code {code} while it was stopping")
        log.info("Stopped the engine cleanly")
        return 0

    async def _let_output_through(self) -> None:
        """Forward the engine's last lines before its end is reported."""
        engine = self.state.engine
        if engine is not None:
            # Helpers of a dead engine may hold its pipes open; end them so that the tail is whole.
            engine.kill_group()
            await asyncio.get_running_loop().run_in_executor(
                None, engine.join_output, OUTPUT_SECONDS
            )
