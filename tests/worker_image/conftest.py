"""Models, workers, engines and taps for the tests of the workers' side; everything on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from e2e.models.tiny_model import RECIPES, make_model
from tests.worker_image.programs import FakeEngine, Worker
from tests.worker_image.tapped import Tapped
from worker_image.launcher.sampler import Sampler


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with v1 and v2, as in the fake engine's image."""
    folder = tmp_path_factory.mktemp("models")
    for name, recipe in RECIPES.items():
        make_model(recipe, folder / name, {})
    return folder


@pytest.fixture
def worker(models: Path, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Makes launchers with the fake engine; whatever still runs at the end is killed."""
    started: list[Worker] = []

    def start(**settings: object) -> Worker:
        made = Worker(models / "v1", tmp_path / f"worker{len(started)}", **settings)  # type: ignore[arg-type]  # keywords of Worker
        started.append(made)
        return made

    yield start
    for made in started:
        made.kill()


@pytest.fixture
def engine(models: Path, tmp_path: Path) -> Iterator[Callable[..., FakeEngine]]:
    """Makes fake engines without a launcher."""
    started: list[FakeEngine] = []

    def start(*arguments: str, model: str = "v1") -> FakeEngine:
        made = FakeEngine(models / model, tmp_path / f"engine{len(started)}.log", arguments)
        started.append(made)
        return made

    yield start
    for made in started:
        made.kill()


@pytest.fixture
async def tapped(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tapped]:
    """A tap that finds its launcher by the variables, as in the engine's process."""
    sampler = Sampler()
    variables = sampler.open()
    assert variables is not None
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = Tapped(sampler)
    yield made
    made.close()
