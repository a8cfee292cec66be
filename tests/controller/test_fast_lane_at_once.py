"""Many rollbacks at once on an API server with one slow core: how long until the last share is 0.

In the time of the event loop alone (looptime), so the figure is of the control flow and not of the
machine: each request takes its turn at the server. It is what the queue and the fast lane are for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from llmrollouts.controller.fast_lane import FastLane
from llmrollouts.controller.keys import Key
from llmrollouts.controller.queue import Outcome, WorkQueue
from llmrollouts.rollout.intent import DeploymentTraffic
from tests.controller.shell import Shell, make_deployment

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

COUNT = 10
# Measured with the project's API server: a request costs 5 ms of a core. Ten times that for a tenth
# of the hundred deployments.
SERVICE = 0.05
KEYS = [Key("prod", f"chat-{number:02d}") for number in range(COUNT)]
STEPS = [{"canary": {"share": "50%", "duration": "10h", "minRequests": 1}}]


class OneCore:
    """The API server answers one request after the other."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._turn = asyncio.Lock()
        self.served = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        real = getattr(self._real, name)

        async def ask(*given: Any) -> Any:
            async with self._turn:
                await asyncio.sleep(SERVICE)
                self.served += 1
                return await real(*given)

        return ask


async def in_canary() -> Shell:
    """Every deployment has half of its users on a canary."""
    shell = Shell()
    for key in KEYS:
        shell.apply(make_deployment("v1", key, steps=STEPS))
        await shell.run_until(lambda key=key: shell.is_serving("v1", key), key)  # type: ignore[misc]
        shell.apply(make_deployment("v2", key, steps=STEPS))
        await shell.run_until(
            lambda key=key: shell.status(key).get("share") == "50%",  # type: ignore[misc]
            key,
        )
    return shell


async def roll_all_back(shell: Shell) -> tuple[float, int]:
    """Seconds until the last share was lowered, and the requests served until then."""
    process, loop = shell.process, asyncio.get_running_loop()
    server = OneCore(shell.kube)
    process.observer._reader = server
    process.reconciler._actor._writer._writer = server  # type: ignore[attr-defined]
    lane = FastLane(
        server, process.traffic, process.leadership, process.lowerings, process.telemetry.count_bug
    )
    lowered: dict[str, tuple[float, int]] = {}

    def note(traffic: DeploymentTraffic) -> None:
        if not any(r.share for r in traffic.revisions):
            lowered.setdefault(traffic.uid, (loop.time(), server.served))

    process.traffic.on_program = note

    async def run_round(key: Key) -> Outcome:
        await lane.give_way()
        return await process.reconciler.reconcile(key)

    queue: WorkQueue[Key] = WorkQueue(run_round, 16)
    running = asyncio.create_task(queue.run())
    looks = set()

    async def look(key: Key) -> None:
        await lane.look(key)
        queue.nudge(key)

    began, before = loop.time(), server.served
    for key in KEYS:
        shell.command("rollback/1", key)
        if lane.is_open(key, shell.uid(key)):
            looks.add(asyncio.create_task(look(key)))
        else:
            queue.nudge(key)
    async with asyncio.timeout(600):
        while len(lowered) < COUNT:
            await asyncio.sleep(0.01)
    await queue.stop(600)
    running.cancel()
    last = max(lowered.values())
    return last[0] - began, last[1] - before


async def test_the_last_of_many_rollbacks_waits_for_one_request_each() -> None:
    seconds, requests = await roll_all_back(await in_canary())
    assert requests <= COUNT
    assert seconds <= COUNT * SERVICE + 0.1
