"""One LLMDeployment under test: what a test is given, does and sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from e2e.harness.kube import LLMD, Json, Kube, eventually
from e2e.harness.traffic import Traffic


def shadow(share: str, duration: str = "5s", min_requests: int = 5) -> Json:
    return {"shadow": {"share": share, "duration": duration, "minRequests": min_requests}}


def canary(share: str, duration: str = "5s", min_requests: int = 5) -> Json:
    return {"canary": {"share": share, "duration": duration, "minRequests": min_requests}}


@dataclass
class Chat:
    """An LLMDeployment of fake engines (or real ones), with short steps."""

    kube: Kube
    gateway: str
    image: str
    namespace: str
    name: str = "chat"
    replicas: int = 2
    steps: list[Json] = field(default_factory=lambda: [shadow("20%"), canary("10%"), canary("50%")])
    rollback_window: str = "20s"
    match_load: bool = True
    max_extra_replicas: int | None = None
    # Off: steps pass by time and requests alone, so that a test of something else is short.
    latency_gate: str = "Off"
    objectives: Json = field(default_factory=dict)
    # Over what latency_gate says: gates from Prometheus, the placebo.
    gates: Json = field(default_factory=dict)
    on_inconclusive: str = "Hold"
    env: dict[str, str] = field(default_factory=dict)
    extra_args: list[str] = field(default_factory=list)
    resources: Json = field(
        default_factory=lambda: {
            "requests": {"cpu": "20m", "memory": "64Mi"},
            "limits": {"memory": "512Mi"},
        }
    )

    @property
    def url(self) -> str:
        return f"{self.gateway}/{self.namespace}/{self.name}/v1"

    def manifest(self, model: str = "v1", **revision: Json) -> Json:
        engine: Json = {
            "image": self.image,
            "device": "CPU",
            "maxModelLen": 512,
            "shutdownTimeout": "20s",
        }
        if self.extra_args:
            engine["extraArgs"] = self.extra_args
        if self.env:
            engine["env"] = [{"name": k, "value": v} for k, v in self.env.items()]
        strategy: Json = {
            "steps": self.steps,
            "rollbackWindow": self.rollback_window,
            "matchLoad": self.match_load,
            "onInconclusive": self.on_inconclusive,
        }
        if self.max_extra_replicas is not None:
            strategy["maxExtraReplicas"] = self.max_extra_replicas
        spec: Json = {
            "replicas": self.replicas,
            "revision": {
                "model": {"uri": f"file:///models/{model}", "servedName": "chat"},
                "engine": engine,
                "resources": self.resources,
                **revision,
            },
            "strategy": strategy,
            "gates": {"latency": {"mode": self.latency_gate}, **self.gates},
        }
        if self.objectives:
            spec["objectives"] = self.objectives
        return {
            "apiVersion": "llmrollouts.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        }

    # Given and when.

    def applied(self, model: str = "v1", **revision: Json) -> Chat:
        self.kube.apply(self.manifest(model, **revision))
        return self

    def serving(self, model: str = "v1", timeout: float = 90) -> Chat:
        """Apply and wait until every worker serves."""
        self.applied(model)
        self.sees("serving at full size", lambda s: s.get("phase") == "Serving", timeout)
        return self

    def command(self, *words: str, check: bool = True) -> str:
        verb, *rest = words
        done = self.kube.llm(verb, self.name, "-n", self.namespace, *rest, check=check)
        return done.stdout + done.stderr

    def annotate(self, command: str) -> None:
        """The plain way, without the command line tool."""
        self.kube.kubectl(
            "annotate",
            "llmd",
            self.name,
            "-n",
            self.namespace,
            "--overwrite",
            f"llmrollouts.dev/command={command}",
        )

    def traffic(
        self,
        rate: float = 40,
        *,
        requests: int = 0,
        pin: str | None = None,
        stream_every: int = 3,
    ) -> Traffic:
        return Traffic(self.url, rate, requests=requests, pin=pin, stream_every=stream_every)

    # Then.

    @property
    def resource(self) -> Json | None:
        return self.kube.get(f"{LLMD}/namespaces/{self.namespace}/llmdeployments/{self.name}")

    @property
    def status(self) -> Json:
        found = self.resource
        return dict(found.get("status", {})) if found else {}

    def sees(self, what: str, wanted: Callable[[Json], object], timeout: float = 60) -> Json:
        """Wait for a status; the message of a time-out shows the last one."""
        last: Json = {}

        def probe() -> Json | None:
            nonlocal last
            last = self.status
            return last if wanted(last) else None

        try:
            return eventually(what, probe, timeout)
        except TimeoutError as late:
            summary = {
                key: last.get(key)
                for key in (
                    "phase",
                    "message",
                    "stableRevision",
                    "canaryRevision",
                    "step",
                    "share",
                    "promotion",
                    "lapse",
                    "hold",
                    "warm",
                    "retiring",
                    "lastRollback",
                    "command",
                )
            }
            raise TimeoutError(f"{self.namespace}/{self.name}: {late}\n{summary}") from None

    def in_step(self, index: int, timeout: float = 90) -> Json:
        """Wait until the step runs and its share (or mirror) really flows."""
        return self.sees(
            f"step {index} running",
            lambda s: (
                (s.get("step") or {}).get("index") == index
                and (s["step"]).get("runningSince")
                and not s.get("promotion")
            ),
            timeout,
        )

    @staticmethod
    def decided_at(status: Json) -> float:
        """When the operator decided to go to the running step: shares move from then on."""
        return datetime.fromisoformat(status["step"]["startedAt"]).timestamp()

    @staticmethod
    def steps_ended_at(status: Json) -> float:
        """When the last step passed: everyone moves from then on. From the history, because on a
        quiet machine the promotion itself takes less time than lies between two looks."""
        passed = [entry["at"] for entry in status["history"] if entry["event"] == "StepPassed"]
        return datetime.fromisoformat(max(passed)).timestamp()

    def promoted(self, revision: str, timeout: float = 120) -> Json:
        return self.sees(
            f"{revision} promoted",
            lambda s: s.get("stableRevision") == revision and not s.get("canaryRevision"),
            timeout,
        )

    def back_on(self, revision: str, timeout: float = 30) -> Json:
        return self.sees(
            f"everyone back on {revision}",
            lambda s: s.get("stableRevision") == revision and not s.get("canaryRevision"),
            timeout,
        )

    def canary(self, timeout: float = 30) -> str:
        """The canary's name, once there is one."""
        return str(
            self.sees("a canary", lambda s: s.get("canaryRevision"), timeout)["canaryRevision"]
        )

    def has_users(self) -> bool:
        """Whether the gateways report that users meet the canary."""
        return float(str(self.status.get("measuredShare") or "0%").rstrip("%")) > 0

    @property
    def stable(self) -> str:
        return str(self.status["stableRevision"])

    def condition(self, kind: str) -> Json | None:
        return next((c for c in self.status.get("conditions", []) if c["type"] == kind), None)

    def pods(self, revision: str | None = None) -> list[Json]:
        labels = f"llmrollouts.dev/deployment={self.name}"
        if revision:
            labels += f",llmrollouts.dev/revision={revision}"
        return self.kube.pods(self.namespace, labels)

    def restarts(self) -> dict[str, int]:
        """Container restarts by pod: what must not change when the operator does."""
        return {
            pod["metadata"]["name"]: sum(
                c.get("restartCount", 0) for c in pod.get("status", {}).get("containerStatuses", [])
            )
            for pod in self.pods()
        }

    def children(self) -> list[str]:
        """Everything in the namespace that carries this deployment's label."""
        labels = f"llmrollouts.dev/deployment={self.name}"
        paths: Iterable[str] = (
            f"/apis/apps/v1/namespaces/{self.namespace}/deployments",
            f"/apis/apps/v1/namespaces/{self.namespace}/controllerrevisions",
            f"/api/v1/namespaces/{self.namespace}/configmaps",
            f"/api/v1/namespaces/{self.namespace}/pods",
        )
        return [
            f"{path.rsplit('/', 1)[1]}/{item['metadata']['name']}"
            for path in paths
            for item in self.kube.items(path, labels)
        ]

    def deleted(self, timeout: float = 60) -> None:
        self.kube.kubectl(
            "delete", "llmd", self.name, "-n", self.namespace, "--wait=false", "--ignore-not-found"
        )
        eventually(f"nothing left of {self.name}", lambda: not self.children(), timeout)


def now() -> float:
    return time.time()
