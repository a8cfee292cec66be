"""Events: told on the side, counted in series, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from llmrollouts.controller.events import LONGEST_LINE, EventRecorder
from llmrollouts.kube.port import EVENT, LLM_DEPLOYMENT
from llmrollouts.rollout.effects import Notice
from tests.controller.shell import START, make_deployment
from tests.fakes.kube import FakeKube
from tests.fakes.kube_faults import Fault

PROMOTED = Notice("Normal", "Promoted", "v2 is stable")


class Desk:
    def __init__(self) -> None:
        self.now: datetime = START
        self.lost = 0
        self.kube = FakeKube(now=lambda: self.now)
        self.deployment = self.kube.put(LLM_DEPLOYMENT, make_deployment())
        self.recorder = EventRecorder(self.kube, "operator-1", lambda: self.now, self._lose)

    def _lose(self) -> None:
        self.lost += 1

    async def tell(self, notice: Notice) -> None:
        self.recorder.tell(self.deployment, notice)
        await self.recorder.flush(1)

    def counts(self) -> list[int]:
        events = self.kube.objects(EVENT, "prod")
        return [(event.get("series") or {"count": 1})["count"] for event in events]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    task = asyncio.create_task(desk.recorder.run())
    yield desk
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_notice_becomes_an_event_about_the_deployment(desk: Desk) -> None:
    await desk.tell(PROMOTED)
    (event,) = desk.kube.objects(EVENT, "prod")
    assert event["reason"] == event["action"] == "Promoted"
    assert event["note"] == "v2 is stable"
    assert event["regarding"]["uid"] == desk.deployment["metadata"]["uid"]
    assert event["eventTime"] == "2026-01-05T12:00:00.000000Z"


async def test_the_same_notice_again_is_counted_and_another_one_is_told(desk: Desk) -> None:
    for _ in range(3):
        await desk.tell(PROMOTED)
    await desk.tell(Notice("Warning", "Held", "too few"))
    assert sorted(desk.counts()) == [1, 3]


async def test_a_series_ends_after_ten_quiet_minutes(desk: Desk) -> None:
    await desk.tell(PROMOTED)
    desk.now += timedelta(minutes=11)
    await desk.tell(PROMOTED)
    assert desk.counts() == [1, 1]


async def test_a_series_whose_event_is_gone_begins_anew(desk: Desk) -> None:
    await desk.tell(PROMOTED)
    (event,) = desk.kube.objects(EVENT, "prod")
    desk.kube.remove(EVENT, "prod", event["metadata"]["name"])
    desk.now += timedelta(seconds=1)
    await desk.tell(PROMOTED)
    assert desk.counts() == [1]


async def test_a_long_message_is_cut_to_what_the_api_takes(desk: Desk) -> None:
    await desk.tell(Notice("Normal", "Promoted", "ä" * 2000))
    (event,) = desk.kube.objects(EVENT, "prod")
    assert len(event["note"].encode()) <= 1024


async def test_what_cannot_be_told_is_counted_and_the_next_one_is_told(desk: Desk) -> None:
    desk.kube.faults.fail(Fault.FORBIDDEN, "create", "Event")
    await desk.tell(PROMOTED)
    assert desk.lost == 1
    await desk.tell(PROMOTED)
    assert desk.counts() == [1]


async def test_a_full_line_loses_the_newest_and_says_so() -> None:
    desk = Desk()
    for number in range(LONGEST_LINE + 5):
        desk.recorder.tell(desk.deployment, Notice("Normal", "Promoted", str(number)))
    assert desk.lost == 5
