"""Fixtures of the gateway's tests: workers and a folder for the proxies."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.traffic.workers import Worker, start_worker


@pytest.fixture
async def v1() -> AsyncIterator[Worker]:
    async with start_worker("v1") as worker:
        yield worker


@pytest.fixture
async def v2() -> AsyncIterator[Worker]:
    async with start_worker("v2") as worker:
        yield worker
