"""Gives memory that is free again back to the machine.

A list of a thousand deployments, a round, an answer to a proxy leave holes in the heap of the C
library, which keeps them for itself: 15 of the 180 MiB that the operator held at rest with 1,000
deployments. Asked for them, it gives them back within milliseconds. Called by controller/operator.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from typing import Final

PERIOD: Final = 30.0  # seconds; one turn takes 2 ms at 180 MiB


def find_trim() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``; None where the C library has none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


class Heap:
    """``trim``: takes the bytes to keep at the top."""

    def __init__(self, trim: Callable[[int], int] | None, period: float = PERIOD) -> None:
        self._trim = trim
        self._period = period

    def give_back(self) -> None:
        if self._trim is not None:
            self._trim(0)

    async def run(self) -> None:
        """From time to time, until cancelled."""
        while True:
            await asyncio.sleep(self._period)
            self.give_back()
