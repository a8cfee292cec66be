"""Each answer of an API server, and its silence, as a person reads it."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes.client import ApiException

from e2e.harness.processes import closed_port
from llmrollouts.cli.cluster import KubeCluster, list_items, list_path, object_path
from llmrollouts.cli.failure import Failure, Forbidden, Missing, Raced

NOT_FOUND = "the server could not find the requested resource"


class _Canned(http.server.BaseHTTPRequestHandler):
    status = 200
    pages: list[dict[str, object]] = []  # noqa: RUF012 - set by each test on a class of its own
    asked: list[tuple[str, str, object]] = []  # noqa: RUF012

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.asked.append((self.command, self.path, body))
        data = json.dumps(self.pages[min(len(self.asked), len(self.pages)) - 1]).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PATCH = _answer  # noqa: N815 - names that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


def write_kubeconfig(path: Path, server: str, namespace: str = "prod") -> str:
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [
                    {
                        "name": "here",
                        "context": {"cluster": "c", "user": "u", "namespace": namespace},
                    }
                ],
            }
        ),
        encoding="utf-8",
    )
    return str(path)


@pytest.fixture
def canned() -> type[_Canned]:
    """What the server answers; a test sets ``status`` and ``pages``."""
    return type("Canned", (_Canned,), {"pages": [{}], "asked": []})


@pytest.fixture
def kube(canned: type[_Canned], tmp_path: Path) -> Iterator[KubeCluster]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), canned) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        cluster = KubeCluster(write_kubeconfig(tmp_path / "config", url), None)
        yield cluster
        cluster.close()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "message", "kind", "said"),
    [
        (401, "Unauthorized", Failure, "does not accept your credentials"),
        (403, 'User "eve" cannot get resource "llmdeployments"', Forbidden, 'User "eve" cannot'),
        (404, NOT_FOUND, Missing, "not installed in this cluster"),
        (404, 'llmdeployments "chat" not found', Missing, '"chat" not found'),
        (409, "the object has been modified", Raced, "has been modified"),
        (500, "etcdserver: request timed out", Failure, "refused (500): etcdserver"),
    ],
)
def test_answer_becomes_a_failure_that_says_what_to_do(
    status: int, message: str, kind: type[Failure], said: str, kube: KubeCluster,
    canned: type[_Canned],
) -> None:  # fmt: skip
    canned.status = status
    canned.pages = [{"kind": "Status", "message": message}]
    with pytest.raises(kind) as raised:
        kube.get(object_path("prod", "chat"))
    assert said in raised.value.message
    assert raised.value.exit_code == 1


def test_missing_crd_says_how_to_install(kube: KubeCluster, canned: type[_Canned]) -> None:
    canned.status = 404
    canned.pages = [{"message": NOT_FOUND}]
    with pytest.raises(Missing) as raised:
        kube.get(list_path(None))
    assert any("helm install" in line for line in raised.value.advice)


def test_patch_is_a_merge_patch_under_our_own_name(
    kube: KubeCluster, canned: type[_Canned]
) -> None:
    kube.patch(object_path("prod", "chat"), {"metadata": {"annotations": {"a": "b"}}})
    [(method, path, body)] = canned.asked
    assert method == "PATCH"
    assert path.endswith("/namespaces/prod/llmdeployments/chat?fieldManager=kubectl-llm")
    assert body == {"metadata": {"annotations": {"a": "b"}}}


def test_pages_of_a_list_are_joined(kube: KubeCluster, canned: type[_Canned]) -> None:
    canned.pages = [
        {"items": [{"n": 1}], "metadata": {"continue": "more"}},
        {"items": [{"n": 2}], "metadata": {}},
    ]
    assert list_items(kube, list_path("prod"), {}) == [{"n": 1}, {"n": 2}]
    assert "continue=more" in canned.asked[1][1]


def test_namespace_is_that_of_the_context(kube: KubeCluster) -> None:
    assert kube.namespace == "prod"


def test_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    port = closed_port()
    cluster = KubeCluster(write_kubeconfig(tmp_path / "c", f"http://127.0.0.1:{port}"), None)
    with pytest.raises(Failure, match=f"127.0.0.1:{port} does not answer"):
        cluster.get(list_path(None))
    cluster.close()


@pytest.mark.parametrize("given", ["missing", "wrong-context"])
def test_unusable_kubeconfig_is_said_to_be_so(given: str, tmp_path: Path) -> None:
    file = str(tmp_path / "config")
    if given == "wrong-context":
        write_kubeconfig(tmp_path / "config", "http://127.0.0.1:1")
    with pytest.raises(Failure, match="No cluster"):
        KubeCluster(file, "elsewhere" if given == "wrong-context" else None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [b", "does not read as a kubeconfig"),
        ("hello", "does not read as a kubeconfig"),
        ("", "empty"),
        ("{}", "Expected key"),
    ],
)
@pytest.mark.parametrize("by_variable", [True, False])
def test_file_that_is_no_kubeconfig_is_named(
    text: str, said: str, by_variable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(file if by_variable else tmp_path / "other"))
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION",
        str(file if by_variable else tmp_path / "other"),
    )
    with pytest.raises(Failure, match=f"{file} cannot be used: .*{said}"):
        KubeCluster(None if by_variable else str(file), None)


def test_folder_as_kubeconfig_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=f"{tmp_path} cannot be used: Is a directory"):
        KubeCluster(str(tmp_path), None)


def test_untrusted_server_is_not_said_to_be_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = KubeCluster(write_kubeconfig(tmp_path / "c", "https://127.0.0.1:1"), None)

    def refuse(*given: object, **named: object) -> None:
        reason = "SSLError\n[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"
        raise ApiException(status=0, reason=reason)

    monkeypatch.setattr(cluster._api, "call_api", refuse)
    with pytest.raises(Failure, match=r"no trusted connection to .*CERTIFICATE_VERIFY_FAILED"):
        cluster.get(list_path(None))
    cluster.close()
