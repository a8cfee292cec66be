"""Fixtures of the gateway's tests: workers and a folder for the proxies."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.traffic.workers import Worker, start_worker


@pytest.fixture
def update_golden() -> bool:
    """Write golden files anew instead of comparing with them (then read the diff)."""
    return os.environ.get("UPDATE_GOLDEN") == "1"


@pytest.fixture
async def v1() -> AsyncIterator[Worker]:
    async with start_worker("v1") as worker:
        yield worker


@pytest.fixture
async def v2() -> AsyncIterator[Worker]:
    async with start_worker("v2") as worker:
        yield worker
