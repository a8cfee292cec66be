"""What the supervisor knows about its worker, and how that is told: one place for all of it.

The supervisor and its probe write the state; the pages of the launcher's port read it. Nothing here
waits or decides: whether the worker is ready is decided in `readiness`.
"""

from __future__ import annotations

import logging
import time

from .checksums import Progress
from .config import Config
from .engine_process import EngineProcess
from .idle_probe import ProbeResult
from .readiness import Facts, reasons_against
from .telemetry import Reading

log = logging.getLogger("launcher")


class WorkerState:
    """Facts about one worker from the launcher's start to its end; times are monotonic seconds."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.started = time.monotonic()
        self.phase = "starting"
        self.engine: EngineProcess | None = None
        self.files = Progress()
        self.engine_answered = False
        self.files_verified = False
        self.warmed_up = False
        self.stopping = False
        self.drain_started: float | None = None
        self.ready_after: float | None = None
        self.probe_failures = 0
        self.last_probe: ProbeResult | None = None
        self.last_probe_error = ""
        self.probes_passed = 0
        self.probes_passed_by_progress = 0
        self.probes_failed = 0
        self._was_ready = False

    def age(self) -> float:
        return time.monotonic() - self.started

    def facts(self) -> Facts:
        return Facts(
            engine_running=self.engine is not None and self.engine.running,
            engine_answered=self.engine_answered,
            files_verified=self.files_verified,
            warmed_up=self.warmed_up,
            probe_failures=self.probe_failures,
            probe_failure_limit=self.config.idle_probe.failures,
            last_probe_error=self.last_probe_error,
            draining=self.drain_started is not None or self.stopping,
        )

    def reasons(self) -> list[str]:
        """Why the worker is not ready now; empty means ready."""
        return reasons_against(self.facts())

    def note_readiness(self) -> None:
        """Log each change, and remember when the worker was ready for the first time."""
        reasons = self.reasons()
        ready = not reasons
        if ready and self.ready_after is None:
            self.ready_after = self.age()
        if ready != self._was_ready:
            self._was_ready = ready
            if ready:
                log.info("Ready after %.1f s", self.age())
            else:
                log.warning("Not ready: %s", "; ".join(reasons))

    def record_probe(self, result: ProbeResult) -> None:
        self.last_probe = result
        if result.passed:
            if self.probe_failures:
                log.info("Idle probe passed again after %d failures", self.probe_failures)
            self.probe_failures = 0
            self.probes_passed += not result.progress
            self.probes_passed_by_progress += result.progress
        else:
            self.probe_failures += 1
            self.probes_failed += 1
            self.last_probe_error = result.error
            log.warning("Idle probe failed %d times: %s", self.probe_failures, result.error)
        self.note_readiness()

    def reading(self) -> Reading:
        """The numbers of `/metrics`."""
        facts = self.facts()
        return Reading(
            ready=not reasons_against(facts),
            draining=facts.draining,
            engine_up=facts.engine_running,
            ready_after=self.ready_after,
            probe_latency=None if self.last_probe is None else self.last_probe.latency,
            probe_failures_in_row=self.probe_failures,
            probes_passed=self.probes_passed,
            probes_passed_by_progress=self.probes_passed_by_progress,
            probes_failed=self.probes_failed,
            verified_bytes=self.files.bytes_done,
        )

    def describe(self) -> dict[str, object]:
        """The content of `/status`, for people and for support."""
        facts = self.facts()
        reasons = reasons_against(facts)
        model = self.config.model
        return {
            "phase": "draining" if facts.draining else self.phase,
            "ready": not reasons,
            "reasons": reasons,
            "uptimeSeconds": round(self.age(), 3),
            "readyAfterSeconds": self.ready_after,
            "model": {
                "kind": model.kind,
                "location": model.location,
                "revision": model.revision,
                "servedName": model.served_name,
            },
            "files": {
                "verified": facts.files_verified,
                "filesDone": self.files.files_done,
                "filesTotal": self.files.files_total,
                "bytesDone": self.files.bytes_done,
                "bytesTotal": self.files.bytes_total,
            },
            "idleProbe": {
                "failuresInRow": self.probe_failures,
                "lastError": self.last_probe_error,
                "lastLatencySeconds": (
                    None if self.last_probe is None else self.last_probe.latency
                ),
            },
        }
