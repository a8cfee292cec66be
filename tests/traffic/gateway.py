"""Where most tests of the gateway begin: a control plane, and an Envoy that does what it says."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from llmrollouts.rollout.intent import DeploymentTraffic
from tests.traffic.control import Control, Leader, start_control
from tests.traffic.proxy import Proxy, start_proxy


@contextlib.asynccontextmanager
async def start_gateway(
    folder: Path, *wanted: DeploymentTraffic, leader: Leader | None = None, concurrency: int = 1
) -> AsyncIterator[tuple[Control, Proxy]]:
    """Ready, and settled on all that is ``wanted``."""
    async with (
        start_control(*wanted, leader=leader) as control,
        start_proxy(folder, control.port, concurrency=concurrency) as proxy,
    ):
        await proxy.wait_ready()
        for each in wanted:
            await control.settle(each.uid)
        yield control, proxy
