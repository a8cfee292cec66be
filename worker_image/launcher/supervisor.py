"""The worker's life, from start to exit code.

    verify small files -> start engine, verify weights -> warm up -> serve (idle probes)
                                                                      |
            /drain (preStop) or SIGTERM: not ready at once, wait for the proxies
                                                                      |
                     SIGTERM to the engine, which finishes what it has -> exit 0

At any point the engine's own death, a wrong checksum or a missing model ends it with a code and a
message (`failure.py`). The order on the way out is the point: the worker first says that it is not
ready, then gives the proxies `drain_wait` seconds to send nobody here any more, and only then the
engine is told to stop, because vLLM answers requests that come after its SIGTERM as aborted.

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
from .http_server import HttpServer, Page, json_page
from .readiness import Facts, reasons_against
from .telemetry import Reading, render_metrics

log = logging.getLogger("launcher")

HEALTH_POLL_SECONDS = 0.25
HEALTH_TIMEOUT_SECONDS = 5.0
WARMUP_PAUSE_SECONDS = 1.0
# An engine that ends by the very signal we sent, or cleanly, did what it was asked.
CLEAN_STOP_CODES = (0, 128 + signal.SIGTERM, 128 + signal.SIGINT)


class Supervisor:
    """Runs one worker; `run` returns the exit code or raises `Failure`."""

    def __init__(self, config: Config, environment: dict[str, str]) -> None:
        self._config = config
        self._environment = environment
        self._client = idle_probe.EngineClient(config)
        self._engine: EngineProcess | None = None
        self._reaper = Reaper()
        self._progress = checksums.Progress()
        self._cancel_verification = threading.Event()
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._drain_started: float | None = None
        self._phase = "starting"
        self._answered = False
        self._verified = False
        self._warmed_up = False
        self._ready_after: float | None = None
        self._failures_in_row = 0
        self._last_probe: idle_probe.ProbeResult | None = None
        self._last_error = ""
        self._passed = self._passed_by_progress = self._failed = 0
        self._was_ready = False

    # -- life ---------------------------------------------------------------------------------

    async def run(self) -> int:
        """Serve until told to stop or until something gives way."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reaper.collect)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._request_stop, number)
        server = HttpServer(
            {
                "/healthz": self._show_health,
                "/readyz": self._show_readiness,
                "/drain": self._drain_for_prestop,
                "/metrics": self._show_metrics,
                "/status": self._show_status,
            }
        )
        await server.start(self._config.listen_host, self._config.launcher_port)
        log.info("Listened on port %d", self._config.launcher_port)
        life = asyncio.ensure_future(self._live())
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([life, stop], return_when=asyncio.FIRST_COMPLETED)
            if life.done() and not self._stop.is_set():
                life.result()  # raises what ended it; _live never returns by itself
            return await self._leave()
        finally:
            for task in (life, stop):
                task.cancel()
            self._cancel_verification.set()
            # A life that ended by its own Failure has been read above; a cancelled one says so.
            await asyncio.gather(life, stop, return_exceptions=True)
            if self._engine is not None:
                self._engine.kill_group()
                await loop.run_in_executor(None, self._engine.join_output, 1.0)
            server.close()

    async def _live(self) -> None:
        checksums.require_model(self._config.model)
        small, large = self._split_files()
        await self._verify(small)
        command = make_command(self._config)
        environment = make_environment(self._environment)
        log.info("Started the engine: %s", " ".join(command))
        self._engine = start_engine(command, environment)
        self._reaper.watch(self._engine)
        self._phase = "loading"
        steps = [
            asyncio.ensure_future(self._verify(large)),
            asyncio.ensure_future(self._bring_up()),
        ]
        ended = asyncio.ensure_future(self._wait_for_end())
        try:
            pending = {*steps, ended}
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in (*steps, ended):
                task.cancel()
            await asyncio.gather(*steps, ended, return_exceptions=True)

    async def _wait_for_end(self) -> None:
        """Raises when the engine ends unasked; a stop that was asked for is `_leave`'s business."""
        if self._engine is None:
            return
        code = await asyncio.shield(self._engine.ended)
        if self._stop.is_set():
            await asyncio.Event().wait()
        await self._let_output_through()
        if code == 0:
            raise Failure(
                ENGINE_STOPPED_UNASKED, "the engine stopped by itself with exit code 0"
            )
        how = f"signal {code - 128}" if code > 128 else f"exit code {code}"
        raise Failure(code, f"the engine {self._phase_for_people()} ended with {how}")

    def _phase_for_people(self) -> str:
        return "served, then" if self._warmed_up else "never became ready and"

    async def _bring_up(self) -> None:
        """From a started process to a serving one, and then the probes for ever."""
        try:
            await asyncio.wait_for(self._wait_until_healthy(), self._config.start_timeout)
        except asyncio.TimeoutError as error:
            raise Failure(
                START_TIMED_OUT,
                f"the engine did not answer /health within {self._config.start_timeout:g} s of its "
                "start; raise startTimeoutSeconds if the model needs longer to load",
            ) from error
        self._answered = True
        if self._config.model.kind == "hub":
            await self._verify_downloaded()
        await self._warm_up()
        self._phase = "serving"
        self._note_readiness()
        await self._probe_for_ever()

    async def _wait_until_healthy(self) -> None:
        while not await self._client.is_healthy(HEALTH_TIMEOUT_SECONDS):
            await asyncio.sleep(HEALTH_POLL_SECONDS)
        log.info("The engine answered after %.1f s", time.monotonic() - self._started)

    async def _warm_up(self) -> None:
        """Generate before anyone else does; until it works the worker stays not ready."""
        self._phase = "warming up"
        done = 0
        while done < self._config.warmup.requests:
            started = time.monotonic()
            try:
                status = await self._client.generate(
                    self._config.warmup.max_tokens, self._config.warmup.timeout
                )
                problem = "" if status == 200 else f"the engine answered {status}"
            except RequestFailed as error:
                problem = str(error)
            if problem:
                log.warning("Warm-up failed, trying again: %s", problem)
                await asyncio.sleep(WARMUP_PAUSE_SECONDS)
                continue
            done += 1
            log.info(
                "Warmed up, request %d of %d took %.2f s",
                done,
                self._config.warmup.requests,
                time.monotonic() - started,
            )
        self._warmed_up = True

    async def _probe_for_ever(self) -> None:
        settings = self._config.idle_probe
        last = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, last + settings.interval - time.monotonic()))
            try:
                load = await self._client.load(settings.timeout)
            except RequestFailed as error:
                last = time.monotonic()
                self._record(idle_probe.ProbeResult(False, settings.timeout, error=str(error)))
                continue
            failing = self._failures_in_row > 0
            since_last = time.monotonic() - last
            if not idle_probe.should_probe(
                load, since_last, failing, settings.interval, settings.busy_interval
            ):
                await asyncio.sleep(settings.interval)
                continue
            last = time.monotonic()
            self._record(
                await idle_probe.probe(self._client, settings.timeout, idle=load in (0, None))
            )

    def _record(self, result: idle_probe.ProbeResult) -> None:
        self._last_probe = result
        if result.passed:
            if self._failures_in_row:
                log.info("Idle probe passed again after %d failures", self._failures_in_row)
            self._failures_in_row = 0
            self._passed += not result.progress
            self._passed_by_progress += result.progress
        else:
            self._failures_in_row += 1
            self._failed += 1
            self._last_error = result.error
            log.warning("Idle probe failed %d times: %s", self._failures_in_row, result.error)
        self._note_readiness()

    # -- files --------------------------------------------------------------------------------

    def _split_files(self) -> tuple[list[checksums.FoundFile], list[checksums.FoundFile]]:
        """Small files, which are verified before the engine starts, and large ones."""
        model = self._config.model
        folder = checksums.model_folder(model)
        if not model.checksums:
            self._verified = True
            return [], []
        if folder is None or model.kind == "hub":
            return [], []  # verified once the engine has downloaded them
        found = checksums.find_files(folder, model.checksums)
        self._announce(found)
        small = [file for file in found if file.size <= checksums.SMALL_FILE_BYTES]
        return small, [file for file in found if file.size > checksums.SMALL_FILE_BYTES]

    def _announce(self, found: list[checksums.FoundFile]) -> None:
        self._progress.files_total = len(found)
        self._progress.bytes_total = sum(file.size for file in found)

    async def _verify(self, files: list[checksums.FoundFile]) -> None:
        if files:
            await asyncio.get_running_loop().run_in_executor(
                None, checksums.verify_files, files, self._progress, self._cancel_verification
            )
        if self._progress.files_total and (
            self._progress.files_done == self._progress.files_total
        ):
            self._verified = True
            log.info(
                "Verified all %d files, %d MiB",
                self._progress.files_total,
                self._progress.bytes_total >> 20,
            )
            self._note_readiness()

    async def _verify_downloaded(self) -> None:
        model = self._config.model
        folder = checksums.model_folder(model)
        if model.checksums and folder is not None:
            found = checksums.find_files(folder, model.checksums)
            self._announce(found)
            await self._verify(found)

    # -- leaving ------------------------------------------------------------------------------

    def _request_stop(self, number: int) -> None:
        if not self._stop.is_set():
            log.info("Received %s", signal.Signals(number).name)
        self._stop.set()

    def _begin_drain(self) -> float:
        """Not ready from now on; the monotonic time at which the proxies have had their wait."""
        if self._drain_started is None:
            self._drain_started = time.monotonic()
            self._note_readiness()
            log.info("Began to drain, waiting %g s for the proxies", self._config.drain_wait)
        return self._drain_started + self._config.drain_wait

    async def _drain_for_prestop(self) -> Page:
        until = self._begin_drain()
        await asyncio.sleep(max(0.0, until - time.monotonic()))
        asyncio.get_running_loop().call_later(self._config.drain_lapse, self._lapse, until)
        return Page(200, "drained\n")

    def _lapse(self, until: float) -> None:
        if self._stop.is_set() or self._drain_started is None:
            return
        if self._drain_started + self._config.drain_wait != until:
            return  # this timer belongs to an earlier drain
        self._drain_started = None
        log.warning(
            "Took the drain back: no SIGTERM followed within %g s", self._config.drain_lapse
        )
        self._note_readiness()

    async def _leave(self) -> int:
        """Drain, stop the engine, and say how it went."""
        was_serving = self._warmed_up
        until = self._begin_drain()
        if was_serving:
            await self._sleep_unless_ended(until - time.monotonic())
        self._phase = "stopping"
        self._cancel_verification.set()
        engine = self._engine
        if engine is None:
            return 0
        if not was_serving:
            # Nobody was ever sent here: nothing to finish, so nothing to wait for.
            engine.kill_group()
            await engine.ended
            return 0
        engine.terminate()
        patience = self._config.shutdown_timeout + self._config.kill_margin
        try:
            code = await asyncio.wait_for(asyncio.shield(engine.ended), patience)
        except asyncio.TimeoutError as error:
            engine.kill_group()
            await engine.ended
            raise Failure(
                KILLED_WHILE_STOPPING,
                f"the engine did not stop within {patience:g} s of SIGTERM and was killed; requests "
                "in flight were cut",
            ) from error
        if code not in CLEAN_STOP_CODES:
            raise Failure(code, f"the engine ended with exit code {code} while it was stopping")
        log.info("Stopped the engine cleanly")
        return 0

    async def _sleep_unless_ended(self, seconds: float) -> None:
        if seconds > 0 and self._engine is not None:
            await asyncio.wait([asyncio.shield(self._engine.ended)], timeout=seconds)

    async def _let_output_through(self) -> None:
        if self._engine is not None:
            # Helpers of a dead engine may hold its pipes open; end them so that the tail is whole.
            self._engine.kill_group()
            await asyncio.get_running_loop().run_in_executor(
                None, self._engine.join_output, 1.0
            )

    def engine_tail(self, limit: int) -> str:
        """The engine's last lines, at most `limit` bytes."""
        return "" if self._engine is None else self._engine.tail.text(limit)

    # -- pages --------------------------------------------------------------------------------

    def _facts(self) -> Facts:
        return Facts(
            engine_running=self._engine is not None and self._engine.running,
            engine_answered=self._answered,
            files_verified=self._verified,
            warmed_up=self._warmed_up,
            probe_failures=self._failures_in_row,
            probe_failure_limit=self._config.idle_probe.failures,
            last_probe_error=self._last_error,
            draining=self._drain_started is not None or self._stop.is_set(),
        )

    def _note_readiness(self) -> None:
        """Log each change, and remember when the worker was ready for the first time."""
        reasons = reasons_against(self._facts())
        ready = not reasons
        if ready and self._ready_after is None:
            self._ready_after = time.monotonic() - self._started
        if ready != self._was_ready:
            self._was_ready = ready
            if ready:
                log.info("Ready after %.1f s", time.monotonic() - self._started)
            else:
                log.warning("Not ready: %s", "; ".join(reasons))

    async def _show_health(self) -> Page:
        if self._engine is not None and not self._engine.running and not self._stop.is_set():
            return Page(503, "the engine has died\n")
        return Page(200, "ok\n")

    async def _show_readiness(self) -> Page:
        reasons = reasons_against(self._facts())
        if reasons:
            return Page(503, "not ready: " + "; ".join(reasons) + "\n")
        return Page(200, "ready\n")

    async def _show_metrics(self) -> Page:
        facts = self._facts()
        reading = Reading(
            ready=not reasons_against(facts),
            draining=facts.draining,
            engine_up=facts.engine_running,
            ready_after=self._ready_after,
            probe_latency=None if self._last_probe is None else self._last_probe.latency,
            probe_failures_in_row=self._failures_in_row,
            probes_passed=self._passed,
            probes_passed_by_progress=self._passed_by_progress,
            probes_failed=self._failed,
            verified_bytes=self._progress.bytes_done,
        )
        return Page(200, render_metrics(reading), "text/plain; version=0.0.4; charset=utf-8")

    async def _show_status(self) -> Page:
        facts = self._facts()
        return json_page(
            200,
            {
                "phase": "draining" if facts.draining else self._phase,
                "ready": not reasons_against(facts),
                "reasons": reasons_against(facts),
                "uptimeSeconds": round(time.monotonic() - self._started, 3),
                "readyAfterSeconds": self._ready_after,
                "model": {
                    "kind": self._config.model.kind,
                    "location": self._config.model.location,
                    "revision": self._config.model.revision,
                    "servedName": self._config.model.served_name,
                },
                "files": {
                    "verified": facts.files_verified,
                    "filesDone": self._progress.files_done,
                    "filesTotal": self._progress.files_total,
                    "bytesDone": self._progress.bytes_done,
                    "bytesTotal": self._progress.bytes_total,
                },
                "idleProbe": {
                    "failuresInRow": self._failures_in_row,
                    "lastError": self._last_error,
                    "lastLatencySeconds": (
                        None if self._last_probe is None else self._last_probe.latency
                    ),
                },
            },
        )
