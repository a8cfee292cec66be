"""Reads the taps over HTTP: the adapter behind ``SampleReader`` for workers that have one.

It decides nothing about what it reads. Used by ``reading``.
"""

from __future__ import annotations

from llmrollouts.metrics.fetch import PageFetcher
from llmrollouts.metrics.page import NoTap, PageError, make_parameters
from llmrollouts.metrics.page import parse_page as _parse_page
from llmrollouts.metrics.port import Query, Reading, Worker


class TapReader:
    """Implements SampleReader. Use and close it in one event loop."""

    def __init__(self, fetcher: PageFetcher) -> None:
        self._fetcher = fetcher

    async def read(self, worker: Worker, query: Query) -> Reading:
        parameters = make_parameters(query.measurement, query.since, query.boot)
        path = f"/samples?{parameters}" if parameters else "/samples"
        answer = await self._fetcher.fetch(worker, path)
        if answer.status == 404:
            raise NoTap(f"{worker.name} has no tap: its launcher is older than this operator")
        if answer.status != 200:
            # What a worker says is not repeated: it may hold anything.
            raise PageError(f"{worker.name} answered {answer.status} instead of samples")
        return Reading(_parse_page(answer.body, worker.name, query.measurement), answer.at)

    async def close(self) -> None:
        await self._fetcher.close()
