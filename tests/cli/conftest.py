"""A recorded cluster, a clock that tests move, consoles of fixed width, and traces to replay."""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llmrollouts.api.manifest import Manifest
from llmrollouts.cli.cluster import Cluster
from llmrollouts.cli.failure import Failure, Forbidden, Missing, Raced
from llmrollouts.cli.main import Session, run
from llmrollouts.cli.orders import Clock

NOW = datetime(2026, 11, 22, 3, 0, 0, tzinfo=UTC)
WIDTH = 110
STABLE, CANARY = "bcdfghjkl2", "vwxz245678"
COMMAND = "llmrollouts.dev/command"


def at(seconds: float) -> str:
    """A timestamp so many seconds before now."""
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class TestClock(Clock):
    """Sleeping moves the clock; ``on_sleep`` lets the operator act meanwhile."""

    __test__ = False

    def __init__(self) -> None:
        object.__setattr__(self, "spent", 0.0)
        object.__setattr__(self, "on_sleep", lambda: None)
        super().__init__(lambda: self.spent, self._sleep)

    spent: float
    on_sleep: Callable[[], None]

    def _sleep(self, seconds: float) -> None:
        object.__setattr__(self, "spent", self.spent + seconds)
        self.on_sleep()

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.spent)


@dataclass
class RecordedCluster:
    """Serves recorded objects; ``operator`` is called with each new command annotation."""

    namespace: str = "prod"
    deployments: list[Manifest] = field(default_factory=list)
    lists: dict[str, list[Manifest]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    races: int = 0
    given: list[str] = field(default_factory=list)
    operator: Callable[[Manifest, str], None] = lambda manifest, command: None

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Manifest:
        self._fail(path)
        if "/llmdeployments/" in path:
            return copy.deepcopy(self._find(path))
        if path.endswith("/llmdeployments"):
            found = re.search("/namespaces/([^/]+)/", path)
            scope = found.group(1) if found else None
            items = [d for d in self.deployments if scope in (None, d["metadata"]["namespace"])]
            return {"items": copy.deepcopy(items), "metadata": {}}
        return {"items": self.lists.get(path.rsplit("/", 1)[1], []), "metadata": {}}

    def patch(self, path: str, body: Manifest) -> Manifest:
        self._fail(f"PATCH {path}")
        manifest = self._find(path)
        metadata = manifest["metadata"]
        if self.races:
            self.races -= 1
            metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
        wanted = body["metadata"].get("resourceVersion")
        if wanted is not None and wanted != metadata["resourceVersion"]:
            raise Raced("the object has been modified")
        command = body["metadata"]["annotations"][COMMAND]
        metadata.setdefault("annotations", {})[COMMAND] = command
        self.given.append(command)
        self.operator(manifest, command)
        return manifest

    def _fail(self, path: str) -> None:
        for part, failure in self.failures.items():
            if part in path:
                raise failure

    def _find(self, path: str) -> Manifest:
        namespace, name = path.split("/namespaces/")[1].split("/llmdeployments/")
        for manifest in self.deployments:
            metadata = manifest["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name):
                return manifest
        raise Missing(f'llmdeployments.llmrollouts.dev "{name}" not found')


def answer(result: str = "Done", message: str = "done as asked") -> Callable[[Manifest, str], None]:
    """An operator that takes every command in at once, with this result."""

    def operator(manifest: Manifest, command: str) -> None:
        status = manifest.setdefault("status", {})
        sequence = (status.get("command") or {}).get("sequence", 0) + 1
        status["command"] = {
            "sequence": sequence,
            "value": command,
            "at": at(0),
            "result": result,
            "message": message,
            "reason": "CommandDone" if result == "Done" else "NothingToDo",
        }
        del manifest["metadata"]["annotations"][COMMAND]

    return operator


STEPS = [
    {"shadow": {"share": "5%", "duration": "24h", "minRequests": 20}},
    {"canary": {"share": "0.5%", "duration": "30m", "minRequests": 20}},
    {"canary": {"share": "5%", "duration": "15m", "minRequests": 20}},
    {"canary": {"share": "50%", "duration": "10m", "minRequests": 20}},
]


def deployment(name: str = "chat", namespace: str = "prod", **status: object) -> Manifest:
    """An LLMDeployment as the API server gives it; without a status where none is given."""
    manifest: Manifest = {
        "apiVersion": "llmrollouts.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "generation": 4,
            "resourceVersion": "100",
        },
        "spec": {
            "replicas": 4,
            "revision": {"model": {"uri": "hf://org/chat@" + "b" * 40}},
            "strategy": {"steps": copy.deepcopy(STEPS)},
        },
    }
    if status:
        manifest["status"] = {
            "observedGeneration": 4,
            "epoch": 3,
            "stableRevision": STABLE,
            "replicas": 4,
            "readyReplicas": 4,
            **status,
        }
    return manifest


def canary_status(**more: object) -> dict[str, Any]:
    """In the 0.5 % step for twelve minutes."""
    return {
        "phase": "Progressing",
        "message": "Canary step 2 of 4 (0.5%): 18m of its time remain",
        "canaryRevision": CANARY,
        "replicas": 5,
        "readyReplicas": 5,
        "share": "0.5%",
        "measuredShare": "0.49%",
        "shadowShare": "24.5%",
        "measuredShadowShare": "24.6%",
        "step": {
            "index": 1,
            "kind": "Canary",
            "share": "0.5%",
            "startedAt": at(725),
            "heldSeconds": 120.0,
            "runningSince": at(600),
            "counter": {"total": 1284, "source": "a", "base": 4},
        },
        **more,
    }


def workers(revision: str, ready: int, wanted: int) -> Manifest:
    return {
        "metadata": {
            "name": f"chat-{revision}",
            "labels": {"llmrollouts.dev/revision": revision},
        },
        "spec": {"replicas": wanted},
        "status": {"readyReplicas": ready},
    }


def record(revision: str, number: int, commit: str, **annotations: str) -> Manifest:
    return {
        "metadata": {
            "name": f"chat-{revision}",
            "creationTimestamp": "2026-11-20T08:00:00Z",
            "labels": {"llmrollouts.dev/revision": revision},
            "annotations": annotations,
        },
        "revision": number,
        "data": {"source": json.dumps({"model": {"uri": f"hf://org/chat@{commit * 40}"}})},
    }


def event(seconds: float, kind: str, reason: str, message: str, count: int = 1) -> Manifest:
    return {
        "type": kind,
        "reason": reason,
        "message": message,
        "eventTime": at(seconds),
        "series": {"count": count, "lastObservedTime": at(seconds)} if count > 1 else None,
    }


@dataclass
class Terminal:
    """Runs ``kubectl llm`` against a recorded cluster."""

    cluster: RecordedCluster
    clock: TestClock
    code: int = -1
    out: str = ""
    err: str = ""

    def type(self, *words: str) -> int:
        """Run it; the exit code. What it printed is in ``out`` and ``err``."""

        def console() -> Console:
            return Console(file=io.StringIO(), width=WIDTH, highlight=False, color_system=None)

        def connect(kubeconfig: str | None, context: str | None) -> Cluster:
            return self.cluster

        session = Session(connect=connect, clock=self.clock, out=console(), err=console())
        self.code = run(list(words), session)
        self.out = _text(session.out)
        self.err = _text(session.err)
        return self.code

    def json(self) -> Manifest:
        found: Manifest = json.loads(self.out)
        return found


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines())


@pytest.fixture
def cluster() -> RecordedCluster:
    """A rollout in its 0.5 % step."""
    return RecordedCluster(
        deployments=[deployment(**canary_status())],
        lists={
            "deployments": [workers(STABLE, 4, 4), workers(CANARY, 1, 1)],
            "controllerrevisions": [record(STABLE, 1, "a"), record(CANARY, 2, "b")],
            "events": [
                event(725, "Normal", "StepStarted", "Canary step 2 of 4 (0.5%) began"),
                event(90, "Warning", "WaitingForGateways", "1 of 2 gateways has confirmed", 3),
            ],
            "leases": [
                {
                    "metadata": {"namespace": "llm-rollouts-system", "name": "llm-rollouts"},
                    "spec": {
                        "holderIdentity": "operator-0",
                        "leaseDurationSeconds": 6,
                        "renewTime": at(1),
                    },
                }
            ],
        },
    )


@pytest.fixture
def terminal(cluster: RecordedCluster) -> Terminal:
    return Terminal(cluster, TestClock())


REQUEST: Mapping[str, object] = {
    "t": 1.0, "revision": "stable", "replica": "a", "ttft": 0.1, "tpot": 0.01, "e2e": 1.0,
    "tokens": 91, "status": 200,
}  # fmt: skip
POLICY = """
objectives: {ttftP99: 1s}
strategy:
  steps:
    - canary: {share: 10%, duration: 30m}
"""
Lines = Callable[..., Path]


def request_record(**changes: object) -> str:
    """One line of a trace: a good one, with these changes."""
    return json.dumps({**REQUEST, **changes})


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY, encoding="utf-8")
    return file


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    """A trace of these lines, after one good one."""

    def write(*given: str) -> Path:
        file = tmp_path / "trace.jsonl"
        file.write_text("\n".join([json.dumps(REQUEST), *given]) + "\n", encoding="utf-8")
        return file

    return write


__all__ = ["Forbidden"]
