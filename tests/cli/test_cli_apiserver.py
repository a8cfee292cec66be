"""What a command does to an object on a real API server."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from llmrollouts.cli.cluster import KubeCluster
from llmrollouts.cli.main import Session, run
from tests.apiserver import ApiServer
from tests.cli.conftest import COMMAND, TestClock, answer

pytestmark = pytest.mark.apiserver
BASE = "/apis/llmrollouts.dev/v1alpha1"


class Chat:
    """One LLMDeployment on the API server and a terminal beside it."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server, self.namespace = server, namespace
        self.path = f"{BASE}/namespaces/{namespace}/llmdeployments"
        self.clock = TestClock()
        self.err = io.StringIO()
        manifest = {
            "apiVersion": "llmrollouts.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": "chat", "annotations": {"kept": "yes"}},
            "spec": {"replicas": 1, "revision": {"model": {"uri": "file:///models/v1"}}},
        }
        created = server.request("POST", self.path, manifest)
        assert created.status == 201, created.message

    def read(self) -> dict[str, Any]:
        body: dict[str, Any] = self.server.request("GET", f"{self.path}/chat").body
        return body

    def type(self, *words: str) -> int:
        out = Console(file=io.StringIO(), width=110)
        session = Session(KubeCluster, self.clock, out, Console(file=self.err, width=200))
        rest = ["-n", self.namespace, "--kubeconfig", str(self.server.kubeconfig)]
        return run([*words, *rest], session)


@pytest.fixture
def chat(apiserver: ApiServer, namespace: str) -> Chat:
    return Chat(apiserver, namespace)


def test_command_is_an_annotation_of_ours_and_nothing_else_changes(chat: Chat) -> None:
    before = chat.read()
    assert chat.type("pause", "chat", "--no-wait") == 0, chat.err.getvalue()
    after = chat.read()
    assert after["metadata"]["annotations"]["kept"] == "yes"
    assert after["metadata"]["annotations"][COMMAND].startswith("pause/")
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    [ours] = [f for f in after["metadata"]["managedFields"] if f["manager"] == "kubectl-llm"]
    # An annotation owned by an Apply would count as one from Git and be refused.
    assert ours["operation"] == "Update"


def test_second_command_waits_for_the_first_and_rollback_does_not(chat: Chat) -> None:
    assert chat.type("pause", "chat", "--no-wait") == 0
    assert chat.type("resume", "chat", "--no-wait") == 1
    assert "Another command waits" in chat.err.getvalue()
    assert chat.type("rollback", "chat", "--no-wait") == 0
    assert chat.read()["metadata"]["annotations"][COMMAND].startswith("rollback/")


def test_answer_is_found_in_the_status(chat: Chat) -> None:
    operator = answer("Refused", "refused: no rollout is running")

    def meanwhile() -> None:
        manifest = chat.read()
        operator(manifest, manifest["metadata"]["annotations"][COMMAND])
        written = chat.server.request("PUT", f"{chat.path}/chat/status", manifest)
        assert written.status == 200, written.message

    object.__setattr__(chat.clock, "on_sleep", meanwhile)
    assert chat.type("pause", "chat") == 1
    assert "refused: no rollout is running" in chat.err.getvalue()


def test_wrong_name_and_wrong_kind_are_told_apart(chat: Chat) -> None:
    assert chat.type("status", "chap") == 1
    assert "Did you mean chat?" in chat.err.getvalue()


def test_status_of_an_object_that_nobody_has_looked_at(chat: Chat) -> None:
    assert chat.type("status", "chat") == 0
    assert chat.type("list") == 0
    assert chat.type("history", "chat") == 0
