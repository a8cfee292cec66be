"""Ends asyncio tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

AGAIN_SECONDS = 0.05


async def end_tasks(tasks: Collection[asyncio.Future[None]]) -> None:
    """Cancel until every task is over; what they raised on the way out is not asked for.

    Once is not enough: before Python 3.12, `asyncio.wait_for` swallows a cancellation that arrives
    in the moment in which its inner call finishes, and a task that polls in a loop would go on for
    ever. (An engine that died within milliseconds of its start left the launcher waiting.)
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # marks it as seen, else asyncio complains at its destruction
