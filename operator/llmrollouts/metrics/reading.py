"""Reads a worker by the means that the asker chose: its tap, or its engine's own histograms.

It chooses nothing itself: both arms of a comparison must be read by the same means, which only the
measurement can see to. Made in controller/parts.
"""

from __future__ import annotations

from llmrollouts.metrics.engine_reader import EngineReader
from llmrollouts.metrics.fetch import PageFetcher
from llmrollouts.metrics.port import Query, Reading, SampleReader, Source, Worker
from llmrollouts.metrics.tap import TapReader


class WorkerReader:
    """Implements SampleReader; see TapReader and EngineReader, which share its ``fetcher``."""

    def __init__(self, fetcher: PageFetcher) -> None:
        self._by_source: dict[Source, SampleReader] = {
            "tap": TapReader(fetcher),
            "engine": EngineReader(fetcher),
        }

    async def read(self, worker: Worker, query: Query) -> Reading:
        return await self._by_source[query.source].read(worker, query)

    async def close(self) -> None:
        for each in self._by_source.values():
            await each.close()
