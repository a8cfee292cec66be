"""The whole shell on fakes, with a clock that moves when told and processes that can die.

``Shell`` is the world (API server, workers, users, time); ``Process`` is one life of the operator
in it. A round is driven by hand, so each test is deterministic; the queue has tests of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.settings import OperatorSettings
from llmrollouts.controller.act import Actor
from llmrollouts.controller.children import ChildrenKeeper
from llmrollouts.controller.complaints import Complaints
from llmrollouts.controller.errors import NotLeading
from llmrollouts.controller.events import EventRecorder
from llmrollouts.controller.fast_lane import FastLane, Lowerings
from llmrollouts.controller.fence import FencedWriter
from llmrollouts.controller.gates import NoGates
from llmrollouts.controller.keys import Key
from llmrollouts.controller.observe import Observer
from llmrollouts.controller.queue import Outcome, Settled
from llmrollouts.controller.reconcile import Planner, Reconciler
from llmrollouts.controller.takeover import TakeOver
from llmrollouts.controller.telemetry import Telemetry
from llmrollouts.controller.versions import Versions
from llmrollouts.kube.port import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    LLM_DEPLOYMENT,
)
from llmrollouts.rollout.plan import plan
from tests.fakes.deployments import Workers
from tests.fakes.kube import FakeKube
from tests.fakes.kube_faults import Crashed
from tests.fakes.traffic import FakeTraffic, Users

START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
SETTINGS = OperatorSettings(
    launcher_image="localhost/llm-rollouts-worker:1",
    engine_image_cpu="localhost/engine:1",
    require_digests=False,
)
KEY = Key("prod", "chat")
STEPS = [
    {"shadow": {"share": "5%", "duration": "4s"}},
    {"canary": {"share": "0.5%", "duration": "4s"}},
    {"canary": {"share": "50%", "duration": "4s"}},
]


def make_deployment(model: str = "v1", key: Key = KEY, **strategy: Any) -> Manifest:
    return {
        "apiVersion": labels.API_VERSION,
        "kind": labels.KIND,
        "metadata": {"namespace": key.namespace, "name": key.name},
        "spec": {
            "replicas": 2,
            "revision": {
                "model": {"uri": f"file:///models/{model}"},
                "engine": {"device": "CPU"},
            },
            "strategy": {"steps": STEPS, "rollbackWindow": "20s", **strategy},
            # These workers answer no samples; the gate's engine has tests of its own.
            "gates": {"latency": {"mode": "Off"}},
        },
    }


class FakeLeadership:
    """The newest of several holds the lease; ``frozen`` ones do not know yet that they lost it."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.lost = False
        self.outranked: list[int] = []

    def require(self) -> None:
        if self.lost:
            raise NotLeading("the lease is not ours (any more)")

    async def outrank(self, epoch: int) -> None:
        self.outranked.append(epoch)
        if self.lost:
            raise NotLeading("another leads")
        self.epoch = max(self.epoch, epoch + 1)


class Shell:
    """The world."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.kube = FakeKube(now=self.wall)
        self.workers = Workers(self.kube)
        self.users = Users()
        self.epoch = 0
        self.process = self.start()

    def wall(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def start(self, planner: Planner = plan) -> Process:
        """A fresh process takes over; the one before knows nothing of it."""
        self.epoch += 1
        self.process = Process(self, self.epoch, planner)
        return self.process

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        self.process.traffic.flow(seconds)

    def apply(self, manifest: Manifest) -> Manifest:
        """The user applies the spec; annotations of others stay."""
        metadata = manifest["metadata"]
        was = self.kube.peek(LLM_DEPLOYMENT, metadata["namespace"], metadata["name"])
        if was is None:
            return self.kube.put(LLM_DEPLOYMENT, manifest)

        def change(found: Manifest) -> None:
            found["spec"] = manifest["spec"]

        return self.kube.edit(LLM_DEPLOYMENT, metadata["namespace"], metadata["name"], change)

    def command(self, text: str, key: Key = KEY) -> None:
        def change(found: Manifest) -> None:
            found["metadata"].setdefault("annotations", {})[labels.COMMAND] = text

        self.kube.edit(LLM_DEPLOYMENT, key.namespace, key.name, change, "kubectl-annotate")

    def deployment(self, key: Key = KEY) -> Manifest:
        found = self.kube.peek(LLM_DEPLOYMENT, key.namespace, key.name)
        assert found is not None
        return found

    def status(self, key: Key = KEY) -> Manifest:
        status: Manifest = self.deployment(key).get("status") or {}
        return status

    def uid(self, key: Key = KEY) -> str:
        return str(self.deployment(key)["metadata"]["uid"])

    def condition(self, kind: str, key: Key = KEY) -> Manifest:
        found = [c for c in self.status(key).get("conditions", []) if c["type"] == kind]
        return found[0] if found else {}

    async def run_until(
        self,
        reached: Callable[[], bool],
        key: Key = KEY,
        tick: float = 2.0,
        limit: int = 200,
    ) -> int:
        """Rounds, each followed by time, until ``reached``; a process that dies is replaced."""
        for number in range(limit):
            if reached():
                return number
            try:
                await self.process.round(key)
            except Crashed:
                await self.restart()
            self.pass_time(tick)
        raise AssertionError(f"not reached in {limit} rounds: {self.status(key)}")

    async def restart(self) -> None:
        """A fresh process, which may die while it takes over, too."""
        while True:
            self.start()
            try:
                await self.process.take_over()
            except Crashed:
                continue
            return

    def is_serving(self, model: str, key: Key = KEY) -> bool:
        """The model is stable, nothing is on its way, nothing is left behind."""
        status = self.status(key)
        return (
            status.get("stableRevision") is not None
            and status["stableRevision"] == self.revision_of(model, key)
            and not status.get("canaryRevision")
            and not status.get("warm")
            and not status.get("retiring")
            and status.get("phase") in ("Serving", "Degraded")
        )

    def revision_of(self, model: str, key: Key = KEY) -> str | None:
        for record in self.kube.objects(
            CONTROLLER_REVISION, key.namespace, {labels.DEPLOYMENT: key.name}
        ):
            if f"file:///models/{model}" in record["data"]["source"]:
                return str(record["metadata"]["labels"][labels.REVISION])
        return None

    def end_state(self, key: Key = KEY) -> Any:
        """What must be the same whatever happened on the way."""
        selector = {labels.DEPLOYMENT: key.name}
        status = self.status(key)
        programmed = self.process.traffic.programmed[self.uid(key)]
        return {
            "stable": status.get("stableRevision"),
            "canary": status.get("canaryRevision"),
            "share": status.get("share"),
            "phase": status.get("phase"),
            "records": sorted(
                (
                    record["metadata"]["name"],
                    labels.REJECTED in (record["metadata"].get("annotations") or {}),
                )
                for record in self.kube.objects(CONTROLLER_REVISION, key.namespace, selector)
            ),
            "workers": sorted(
                (
                    workers["metadata"]["name"],
                    workers["spec"]["replicas"],
                    workers["metadata"]["labels"][labels.ROLE],
                )
                for workers in self.kube.objects(DEPLOYMENT, key.namespace, selector)
            ),
            "config_maps": sorted(
                found["metadata"]["name"]
                for found in self.kube.objects(CONFIG_MAP, key.namespace, selector)
            ),
            "default": programmed.default,
            "routes": sorted((r.revision, r.share.ppm) for r in programmed.revisions),
            "command": labels.COMMAND
            in (self.deployment(key)["metadata"].get("annotations") or {}),
        }


class Process:
    """One life of the operator."""

    def __init__(self, shell: Shell, epoch: int, planner: Planner = plan) -> None:
        self.leadership = FakeLeadership(epoch)
        self.traffic = FakeTraffic(lambda: shell.seconds, shell.users)
        self.versions = Versions()
        self.telemetry = Telemetry(CollectorRegistry())
        self.lowerings = Lowerings()
        self.fast_lane = FastLane(
            shell.kube, self.traffic, self.leadership, self.lowerings, self.telemetry.count_bug
        )
        self.stopped: list[str] = []
        kube = shell.kube
        writer = FencedWriter(kube, self.leadership)
        self.events = EventRecorder(writer, f"operator-{epoch}", now=shell.wall)
        self.observer = Observer(kube, self.traffic, NoGates(), self.versions)
        self.reconciler = Reconciler(
            self.observer,
            planner,
            Actor(
                writer,
                ChildrenKeeper(kube, writer, self.versions),
                self.traffic,
                self.leadership,
                self.events,
                self.versions,
                self.telemetry,
                self.lowerings,
            ),
            Complaints(kube, writer, self.events, self.versions, now=shell.wall),
            self.traffic,
            SETTINGS,
            self.leadership,
            self.telemetry,
            self.versions,
            self.lowerings,
            stop=self.stopped.append,
            now=shell.wall,
        )
        self._take_over = TakeOver(
            kube, self.observer, planner, self.traffic, SETTINGS, None, now=shell.wall
        )

    async def take_over(self) -> None:
        found = await self._take_over.program_all(self.leadership.epoch)
        for key, uid in found.uids.items():
            self.reconciler.adopt(key, uid)

    async def round(self, key: Key = KEY) -> Outcome:
        return await self.reconciler.reconcile(key)

    async def settle(self, key: Key = KEY) -> Outcome:
        """Rounds without any time between them, until nothing is written any more."""
        for _ in range(20):
            outcome = await self.round(key)
            if isinstance(outcome, Settled) and outcome.wake_after != 0:
                return outcome
        raise AssertionError("the rounds do not settle")
