"""What the operator gives back to the machine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from llmrollouts.controller.heap import Heap, find_trim

BLOCKS, SIZE = 20_000, 2000  # more than what Python's own allocator takes: 40 MB


def resident() -> int:
    """Bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_holes_between_what_is_in_use_go_back_to_the_machine() -> None:
    blocks = [bytes([number % 256]) * SIZE for number in range(BLOCKS)]
    kept = blocks[::10]
    del blocks
    before = resident()
    Heap(find_trim()).give_back()
    assert before - resident() > BLOCKS * SIZE / 2
    assert all(block == block[:1] * SIZE for block in kept)


async def test_it_goes_on_from_time_to_time() -> None:
    asked: list[int] = []
    often = asyncio.Event()

    def trim(keep: int) -> int:
        asked.append(keep)
        if len(asked) >= 3:
            often.set()
        return 1

    task = asyncio.create_task(Heap(trim, period=0.001).run())
    async with asyncio.timeout(10):
        await often.wait()
    task.cancel()
    assert set(asked) == {0}


async def test_where_the_c_library_cannot_it_goes_on_all_the_same() -> None:
    task = asyncio.create_task(Heap(None, period=0.001).run())
    await asyncio.sleep(0.02)
    assert not task.done()
    task.cancel()
