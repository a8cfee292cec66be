"""The health page: what restarts the process, what does not, and what it shows."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from llmrollouts.controller.health import (
    Check,
    HealthPage,
    check_movement,
    check_rounds,
    check_watches,
)
from llmrollouts.controller.telemetry import Telemetry
from llmrollouts.controller.watch_age import WatchAges
from llmrollouts.kube.port import LLM_DEPLOYMENT, POD


class Page:
    def __init__(self) -> None:
        self.problem: str | None = None
        self.unready: str | None = None
        self.telemetry = Telemetry(CollectorRegistry())
        self.health = HealthPage(
            self.telemetry.registry, (lambda: self.problem,), (lambda: self.unready,)
        )
        self.port = 0

    async def get(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
        ):
            return answer.status, await answer.text()


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    page = Page()
    page.port = await page.health.start("127.0.0.1", 0)
    yield page
    await page.health.stop()


async def test_a_healthy_process_says_so(page: Page) -> None:
    assert await page.get("/healthz") == (200, "ok\n")
    assert await page.get("/readyz") == (200, "ok\n")


async def test_a_sick_process_says_what_it_has(page: Page) -> None:
    page.problem = "a round has been running for 61 s"
    page.unready = "the deployments are not read yet"
    assert await page.get("/healthz") == (500, "a round has been running for 61 s\n")
    assert await page.get("/readyz") == (503, "the deployments are not read yet\n")


async def test_metrics_show_rounds_and_requests(page: Page) -> None:
    page.telemetry.count_round("ok", 0.01)
    page.telemetry.count_request("get", "Pod", 200, 0.01)
    status, text = await page.get("/metrics")
    assert status == 200
    assert 'llmrollouts_rounds_total{result="ok"} 1.0' in text
    assert 'llmrollouts_api_requests_total{code="200",kind="Pod",verb="get"} 1.0' in text


def test_a_round_that_hangs_is_noticed_after_a_minute() -> None:
    age = [59.0]
    check = check_rounds(lambda: age[0])
    assert check() is None
    age[0] = 61.0
    assert check() is not None


@pytest.mark.parametrize(
    ("waiting", "started", "sick"),
    [
        (0.0, None, False),
        (61.0, None, True),
        (61.0, 2.0, False),
        (300.0, 70.0, True),
        (1.0, 90.0, False),
    ],
)
def test_a_queue_that_does_not_move_is_noticed(
    waiting: float, started: float | None, sick: bool
) -> None:
    check = check_movement(lambda: waiting, lambda: started)
    assert (check() is not None) is sick


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_watches(clock: Clock, answers: list[bool]) -> tuple[WatchAges, Check]:
    ages = WatchAges((LLM_DEPLOYMENT, POD), clock)
    return ages, check_watches(ages.age, ages.lag, lambda: answers[0])


def test_r13_a_watch_that_is_not_granted_again_is_dead() -> None:
    clock = Clock()
    ages, check = make_watches(clock, [True])
    clock.now += 350
    ages.note_granted("pods")
    clock.now += 20
    problem = check()
    assert problem is not None
    assert "llmdeployments" in problem
    ages.note_granted("llmdeployments")
    assert check() is None


def test_r13_a_watch_that_loses_events_is_noticed_by_what_rounds_read() -> None:
    clock = Clock()
    ages, check = make_watches(clock, [True])
    ages.note_event(POD, "100")
    ages.note_read(POD, [{"metadata": {"resourceVersion": "105"}}])
    clock.now += 61
    ages.note_granted("pods")
    problem = check()
    assert problem is not None
    assert "pods" in problem
    ages.note_event(POD, "105")
    assert check() is None


def test_an_api_server_that_is_away_is_no_reason_to_restart() -> None:
    clock = Clock()
    answers = [False]
    _, check = make_watches(clock, answers)
    clock.now += 3600
    assert check() is None
    answers[0] = True
    assert check() is not None
