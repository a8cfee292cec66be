"""Reads a worker by the means that the asker chose: its tap, or its engine's own histograms.

It chooses nothing itself: both arms of a comparison must be read by the same means, which only the
measurement can see to. Made in controller/parts.
"""

from __future__ import annotations

from collections.abc import Callable

from llmrollouts.api.labels import LAUNCHER_PORT
from llmrollouts.metrics.engine_reader import EngineReader
from llmrollouts.metrics.fetch import TIME_OUT, PageFetcher
from llmrollouts.metrics.port import Query, Reading, SampleReader, Source, Worker
from llmrollouts.metrics.tap import TapReader


class WorkerReader:
    """Implements SampleReader; see TapReader and EngineReader."""

    def __init__(
        self,
        port: int = LAUNCHER_PORT,
        time_out: float = TIME_OUT,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._by_source: dict[Source, SampleReader] = {
            "tap": TapReader(port, time_out, clock),
            "engine": EngineReader(PageFetcher(port, time_out, clock)),
        }

    async def read(self, worker: Worker, query: Query) -> Reading:
        return await self._by_source[query.source].read(worker, query)

    async def close(self) -> None:
        for each in self._by_source.values():
            await each.close()
