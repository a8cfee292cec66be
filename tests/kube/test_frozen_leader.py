"""R14: a leader that was stopped (SIGSTOP) past its lease and goes on again pushes nothing more."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from llmrollouts.kube.elector import monotonic
from tests.apiserver import ApiServer

SCRIPT = Path(__file__).with_name("leader_process.py")


async def start(server: ApiServer, namespace: str, name: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        str(server.kubeconfig),
        namespace,
        name,
        stdout=asyncio.subprocess.PIPE,
    )


async def read_until(process: asyncio.subprocess.Process, word: str) -> list[tuple[str, float]]:
    """The lines up to and with the first that begins with ``word``, or to the end."""
    lines: list[tuple[str, float]] = []
    assert process.stdout is not None
    while line := await process.stdout.readline():
        said, number = line.decode().split()
        lines.append((said, float(number)))
        if said == word:
            break
    return lines


@pytest.mark.apiserver
async def test_r14_a_thawed_leader_pushes_nothing_and_exits(
    apiserver: ApiServer, namespace: str
) -> None:
    old = await start(apiserver, namespace, "old")
    new: asyncio.subprocess.Process | None = None
    try:
        async with asyncio.timeout(60):
            assert (await read_until(old, "lead"))[-1] == ("lead", 1)
            await read_until(old, "push")
            new = await start(apiserver, namespace, "new")
            await asyncio.sleep(3.0)
            old.send_signal(signal.SIGSTOP)
            frozen = monotonic()
            assert (await read_until(new, "lead"))[-1] == ("lead", 2)
            taken = monotonic() - frozen
            thawed = monotonic()
            old.send_signal(signal.SIGCONT)
            rest = await read_until(old, "lost")
            assert await old.wait() == 1
            assert rest[-1][0] == "lost"
            # One push may have been on its way to the pipe when the process was stopped.
            assert not [said for said, at in rest[:-1] if at > frozen + 0.5]
            assert rest[-1][1] - thawed < 2.0
            assert 4.0 < taken < 12.0  # 9 s, and a busy machine
    finally:
        for process in (old, new):
            if process is not None and process.returncode is None:
                process.kill()
                await process.communicate()
