"""Fixtures that every test may use."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.apiserver import ApiServer, start_apiserver

# They assert, and pytest does not collect them itself. Said here, before any test imports them.
pytest.register_assert_rewrite("tests.kube.contract", "tests.rollout.rules")

# Nothing is judged by a clock here: a busy machine fails no test.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_sessionstart() -> None:
    """Say that there is no event loop, before anyone asks.

    looptime asks asyncio for the loop around each synchronous test; the first such question would
    make a loop that nobody closes, and warnings are errors here.
    """
    asyncio.set_event_loop(None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait for processes come first: meanwhile the others have the processors, and a
    worker that is free takes over from the one that waits. (Of workers that all wait at the end
    none has anything else to do.)"""
    items.sort(key=lambda item: item.path.parent.name != "worker_image")


def pytest_collection_finish() -> None:
    """The modules and the collected tests live to the end: not to be looked through for garbage
    again and again, which was a tenth of the whole time."""
    gc.collect()
    gc.freeze()


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
