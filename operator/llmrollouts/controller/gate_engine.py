"""The canary gate as a ``GateSource``: one measurement for each deployment that tries a revision.

Each round shows it the world; from that it starts, redirects and stops measurements, and answers
with what they know at that moment. It also remembers since when each pod has been ready, because a
worker that just came up is cold and must not be compared. Only the leader measures. It decides
nothing about a rollout. Wired in controller/parts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from llmrollouts.api.reasons import Reason
from llmrollouts.controller import verdicts
from llmrollouts.controller.assignment import Assignment, assign
from llmrollouts.controller.evidence import Applier, EvidenceStore
from llmrollouts.controller.keys import Key
from llmrollouts.controller.measure import Means, Measurement
from llmrollouts.kube.port import Reader
from llmrollouts.metrics.record import PlaceboResult
from llmrollouts.metrics.timeline import WARM_UP
from llmrollouts.resources.children import Owner
from llmrollouts.rollout.observation import Gate, Observation, WorkerPod

LOG: Final = logging.getLogger(__name__)


def make_clock() -> Callable[[], float]:
    """Seconds since 1970, read once and carried on by the event loop's clock: it never jumps, and
    its seconds mean the same to the next leader."""
    loop = asyncio.get_running_loop()
    began = time.time() - loop.time()
    return lambda: began + loop.time()


@dataclass(slots=True)
class _Running:
    measurement: Measurement
    task: asyncio.Task[None]


class GateEngine:
    """``leads``: whether this process may measure and store. ``nudge`` wakes a round."""

    def __init__(
        self,
        means: Means,
        reader: Reader,
        writer: Applier,
        leads: Callable[[], bool],
        nudge: Callable[[Key], None],
        on_placebo: Callable[[Key, PlaceboResult], None] | None = None,
    ) -> None:
        self._means = means
        self._reader = reader
        self._writer = writer
        self._leads = leads
        self._nudge = nudge
        self._on_placebo = on_placebo
        self._running: dict[Key, _Running] = {}
        self._ready_since: dict[Key, dict[str, float]] = {}

    def judge(self, observation: Observation) -> tuple[Gate, ...]:
        """See GateSource. Starts and stops what the observation asks for."""
        deployment = observation.deployment
        key = Key(deployment.namespace, deployment.name)
        try:
            warm = self._note_ready(key, observation.pods)
            assignment = assign(observation, warm)
            if assignment is None:
                self._stop(key)
                return ()
            return self._measure(key, assignment)
        except Exception as problem:
            names = {"llmdeployment": str(key), "error": str(problem)[:300]}
            LOG.exception("Failed to measure", extra=names)
            said = verdicts.error(
                Reason.GATE_BROKEN,
                f"the operator met an error of its own, {type(problem).__name__}: see its log",
            )
            return (verdicts.make_gate(said, "", "Collecting"),)

    def forget(self, key: Key) -> None:
        self._stop(key)
        self._ready_since.pop(key, None)

    async def stop(self) -> None:
        """End every measurement; what is stored stays."""
        tasks = [running.task for running in self._running.values()]
        for key in list(self._running):
            self._stop(key)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._means.reader.close()

    @property
    def running(self) -> frozenset[Key]:
        """The deployments that are measured now."""
        return frozenset(self._running)

    def _measure(self, key: Key, assignment: Assignment) -> tuple[Gate, ...]:
        if not self._leads():
            self._stop(key)
            said = verdicts.wait(Reason.GATE_SILENT, "this replica of the operator does not lead")
            return (verdicts.make_gate(said, assignment.stage, "Collecting"),)
        running = self._running.get(key)
        if running is not None and (
            running.measurement.uid != assignment.uid or running.task.done()
        ):
            self._stop(key)
            running = None
        if running is None:
            running = self._start(key, assignment)
        running.measurement.assign(assignment)
        placebo = running.measurement.placebo()
        if placebo is not None and self._on_placebo is not None:
            self._on_placebo(key, placebo)
        return running.measurement.gates()

    def _start(self, key: Key, assignment: Assignment) -> _Running:
        owner = Owner(key.namespace, key.name, assignment.uid)
        measurement = Measurement(
            assignment,
            self._means,
            EvidenceStore(self._reader, self._writer, owner),
            lambda: self._nudge(key),
        )
        task = asyncio.get_running_loop().create_task(measurement.run(), name=f"measure {key}")
        running = self._running[key] = _Running(measurement, task)
        LOG.info(
            "Began to measure",
            extra={"llmdeployment": str(key), "canary": assignment.judged},
        )
        return running

    def _stop(self, key: Key) -> None:
        running = self._running.pop(key, None)
        if running is not None:
            running.task.cancel()
            LOG.info("Ended the measurement", extra={"llmdeployment": str(key)})

    def _note_ready(self, key: Key, pods: Iterable[WorkerPod]) -> dict[str, float]:
        """Pods that have been ready for a while, and since when."""
        now = self._means.clock()
        known = self._ready_since.get(key, {})
        ready = {pod.uid: known.get(pod.uid, now) for pod in pods if pod.ready}
        if ready:
            self._ready_since[key] = ready
        else:
            self._ready_since.pop(key, None)
        return {uid: since for uid, since in ready.items() if now - since >= WARM_UP}
