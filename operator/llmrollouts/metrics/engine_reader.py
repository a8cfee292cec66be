"""Reads the engines' own pages of metrics: the adapter behind ``SampleReader`` without a tap.

The page comes through the launcher's port, the one port of a worker that the operator may reach,
with the launcher's count of its own probes below it. What a page says only means something beside
the page before it, so a short history of each worker is kept here; it does not survive a restart of
the operator, whose first reading of a worker then says nothing yet. Used by ``reading``.
"""

from __future__ import annotations

from typing import Final

from llmrollouts.metrics.engine_history import EngineHistory
from llmrollouts.metrics.engine_metrics import NoEngineMetrics, parse_engine_metrics
from llmrollouts.metrics.fetch import PageFetcher
from llmrollouts.metrics.page import PageError
from llmrollouts.metrics.port import Query, Reading, Worker

PATH: Final = "/engine-metrics"
# A worker that was not asked for so long is measured no more, seconds.
_FORGET_AFTER: Final = 300.0


class EngineReader:
    """Implements SampleReader. Use and close it in one event loop."""

    def __init__(self, fetcher: PageFetcher) -> None:
        self._fetcher = fetcher
        self._histories: dict[str, EngineHistory] = {}

    async def read(self, worker: Worker, query: Query) -> Reading:
        try:
            answer = await self._fetcher.fetch(worker, PATH)
        except PageError as problem:
            raise NoEngineMetrics(f"its tap is missing, and {problem}") from problem
        if answer.status == 404:
            raise NoEngineMetrics(
                f"{worker.name} has no tap, and its launcher, older than this operator, does not "
                "pass on the engine's page of metrics"
            )
        if answer.status != 200:
            raise NoEngineMetrics(
                f"{worker.name} has no tap, and its engine gives no page of metrics (the launcher "
                f"answered {answer.status})"
            )
        metrics = parse_engine_metrics(answer.body, worker.name)
        self._forget(answer.at)
        history = self._histories.setdefault(worker.uid, EngineHistory(worker.name))
        history.take(metrics, answer.at)
        return Reading(history.page(query), answer.at)

    async def close(self) -> None:
        self._histories.clear()
        await self._fetcher.close()

    def _forget(self, now: float) -> None:
        old = now - _FORGET_AFTER
        for uid in [uid for uid, each in self._histories.items() if each.read_at < old]:
            del self._histories[uid]
