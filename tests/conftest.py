"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.apiserver import ApiServer, start_apiserver


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One real API server with the CRD for the whole session; each test uses its own namespace."""
    with start_apiserver(tmp_path_factory.mktemp("apiserver")) as server:
        server.install_crd()
        yield server


@pytest.fixture
def namespace(apiserver: ApiServer) -> str:
    """A namespace that no other test uses."""
    return apiserver.create_namespace()
