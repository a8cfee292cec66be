"""The deployment of ``gate_world`` whose engines have no tap: they show vLLM's page of metrics.

The tap's page says so; everything else is read through the real parser and history.
"""

from __future__ import annotations

from llmrollouts.metrics.engine_reader import EngineReader
from llmrollouts.metrics.page import NoTap, PageError
from llmrollouts.metrics.port import Query, Reading, Worker
from tests.controller.gate_world import World
from tests.fakes.engines import FakeEngine, FakeFetcher
from tests.fakes.taps import FakeReader


class BothReader(FakeReader):
    """Workers with a tap, and engines without."""

    def __init__(self, world: UntappedWorld) -> None:
        super().__init__(world.clock)
        self.engines = FakeFetcher(world.clock)
        self._by_engine = EngineReader(self.engines)
        self.tapped: set[str] = set()

    def forget_history(self) -> None:
        """As after a restart of the operator."""
        self._by_engine = EngineReader(self.engines)

    async def read(self, worker: Worker, query: Query) -> Reading:
        if query.source == "engine":
            return await self._by_engine.read(worker, query)
        engine = self.engines.engines.get(worker.uid)
        if engine is None or worker.name in self.tapped:
            return await super().read(worker, query)
        if engine.silent:
            raise PageError(f"{worker.name} did not answer within 0.8s")
        raise NoTap(f"{worker.name} runs without the tap")


class UntappedWorld(World):
    """Every worker is an engine; ``bounds``: of the histograms, where they are not vLLM's own."""

    def __init__(
        self,
        stable: int = 4,
        canary: int = 1,
        rate: float = 20.0,
        seed: int = 1,
        bounds: dict[str, list[float]] | None = None,
    ) -> None:
        super().__init__(stable, canary, rate, seed)
        self.both = BothReader(self)
        self.reader = self.both
        self.stable = self._make("s", stable, bounds)  # type: ignore[assignment]  # served alike
        self.canary = self._make("c", canary, bounds)  # type: ignore[assignment]  # served alike
        self.start()

    def _make(
        self, name: str, number: int, bounds: dict[str, list[float]] | None
    ) -> list[FakeEngine]:
        made = [FakeEngine(f"{name}{i}", self.clock) for i in range(number)]
        for engine in made:
            engine.page.bounds.update(bounds or {})
            self.both.engines.engines[engine.worker.uid] = engine
        return made

    def engine(self, name: str) -> FakeEngine:
        return self.both.engines.engines[f"uid-{name}"]
