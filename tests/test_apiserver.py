"""The API server for tests itself: it fails with advice, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from e2e.harness.processes import MissingProgram
from tests.apiserver import ApiServer, start_apiserver


@pytest.mark.parametrize("variable", ["LLMR_KUBE_BIN", "LLMR_CACHE"])
def test_a_missing_program_is_an_error_that_names_make_setup(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMR_KUBE_BIN", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "empty"))
    with (
        pytest.raises(MissingProgram, match="kube-apiserver is missing: run `make setup`"),
        start_apiserver(tmp_path / "server"),
    ):
        pass
    assert not (tmp_path / "server").exists()


@pytest.mark.apiserver
def test_a_server_of_ones_own_can_be_frozen_and_ends_with_its_block(tmp_path: Path) -> None:
    with start_apiserver(tmp_path) as server:
        assert server.request("GET", "/version").status == 200
        assert server.request("GET", "/api/v1/namespaces/absent").status == 404
        server.freeze()
        with pytest.raises(OSError, match="timed out"):
            server.request("GET", "/version", timeout=0.5)
        server.thaw()
        assert server.request("GET", "/version").status == 200
        pids = [process.pid for process in server._processes]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.apiserver
def test_the_crd_can_be_installed_over_itself(apiserver: ApiServer) -> None:
    apiserver.install_crd()


@pytest.mark.apiserver
def test_namespaces_are_never_shared(apiserver: ApiServer) -> None:
    assert apiserver.create_namespace() != apiserver.create_namespace()
