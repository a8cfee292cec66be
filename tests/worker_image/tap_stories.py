"""Tells the sampler stories of requests, record by record, on a clock that the test holds."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from worker_image.launcher.http_server import Page
from worker_image.launcher.sampler import Sampler
from worker_image.launcher.samples import make_samples
from worker_image.launcher.tap.llmrollouts_tap import wire

LIFE = 7
PID = 41


@dataclass(frozen=True)
class Story:
    """One request. marks: ages at 1, 2, 4, ... tokens; end: (how, age, tokens, age of the last)."""

    arrived: float = 100.25
    streamed: bool = True
    mirrored: bool = False
    marks: tuple[float, ...] = ()
    end: tuple[int, float, int, float] | None = None
    status: int = 200


class Teller:
    """A sampler that hears what it is told; `clock` is the worker's time."""

    def __init__(self) -> None:
        self.clock = 100.0
        self.sampler = Sampler(lambda: self.clock)
        self._next: dict[int, int] = {}
        self._requests = 0

    def datagram(self, records: list[bytes], life: int = LIFE, skip: int = 0) -> bytes:
        """The next datagram of a process, after `skip` records that never come."""
        sequence = self._next.get(life, 0) + skip
        self._next[life] = sequence + len(records)
        key = wire.key_of(self.sampler.token)
        return wire.HEADER.pack(key, PID + life, life, sequence, len(records)) + b"".join(records)

    def tell(self, *stories: Story, life: int = LIFE, skip: int = 0) -> None:
        """Everything of each story, as if it had been heard in time."""
        for story in stories:
            self.sampler.take(self.datagram(self.records(story), life, skip))
            skip = 0

    def records(self, story: Story) -> list[bytes]:
        self._requests += 1
        flags = wire.STREAMED * story.streamed | wire.MIRRORED * story.mirrored
        records = [self.record(wire.START, flags, 0, story.arrived)]
        for place, age in enumerate(story.marks):
            at = story.arrived + age
            records.append(self.record(wire.TOKENS, 0, 200, at, at, 1 << place))
        if story.end is not None:
            how, age, tokens, last = story.end
            end = (story.arrived + age, story.arrived + last, tokens)
            records.append(self.record(wire.END, how, story.status, *end))
        return records

    def record(
        self,
        what: int,
        detail: int,
        status: int,
        at: float,
        last: float = 0.0,
        tokens: int = 0,
    ) -> bytes:
        """One record of the request that was begun last."""
        return wire.RECORD.pack(what, detail, status, self._requests, at, last, tokens)

    def page(self, query: str = "") -> Page:
        return asyncio.run(make_samples(self.sampler, query))

    def ask(self, query: str = "", at: float | None = None) -> Any:
        """The page's content, asked at a time of the worker's clock."""
        if at is not None:
            self.clock = at
        page = self.page(query)
        assert page.status == 200, page.body
        return json.loads(page.body)
