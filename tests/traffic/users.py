"""Users: aiohttp clients that count every answer."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp

from llmrollouts.api.labels import REVISION_HEADER

PATH = "/prod/chat/v1/models"


@dataclass(frozen=True)
class Answer:
    """sent_at, ended_at: event loop time. status: 0 for no answer at all."""

    status: int
    revision: str | None
    text: str
    sent_at: float
    ended_at: float


@dataclass
class Traffic:
    """The answers so far, in the order of their end."""

    answers: list[Answer] = field(default_factory=list)

    def by_revision(self) -> Counter[str | None]:
        return Counter(answer.revision for answer in self.answers)

    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers)

    def since(self, moment: float) -> Traffic:
        """The answers to requests sent after ``moment``."""
        return Traffic([a for a in self.answers if a.sent_at >= moment])


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    clock = asyncio.get_running_loop().time
    sent_at = clock()
    method = "GET" if body is None else "POST"
    try:
        async with session.request(
            method, url, headers=headers, data=None if body is None else io.BytesIO(body)
        ) as answer:
            text = await answer.text()
            return Answer(
                answer.status, answer.headers.get(REVISION_HEADER), text, sent_at, clock()
            )
    except (aiohttp.ClientError, TimeoutError) as error:
        return Answer(0, None, repr(error), sent_at, clock())


def open_session(concurrency: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency),
        timeout=aiohttp.ClientTimeout(total=60),
    )


async def send(
    base: str,
    count: int,
    *,
    path: str = PATH,
    concurrency: int = 32,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> Traffic:
    """``count`` requests, as fast as they are answered."""
    traffic = Traffic()
    left = iter(range(count))
    async with open_session(concurrency) as session:

        async def one_user() -> None:
            for _ in left:
                answer = await ask(session, base + path, headers=headers, body=body)
                traffic.answers.append(answer)

        await asyncio.gather(*(one_user() for _ in range(min(concurrency, count))))
    return traffic


@contextlib.asynccontextmanager
async def steady_users(
    base: str, *, path: str = PATH, users: int = 8, pause: float = 0.004
) -> AsyncIterator[Traffic]:
    """Users that go on for as long as the block runs; all have their answers at its end."""
    traffic = Traffic()
    over = asyncio.Event()
    async with open_session(users) as session:

        async def one_user() -> None:
            while not over.is_set():
                traffic.answers.append(await ask(session, base + path))
                await asyncio.sleep(pause)

        tasks = [asyncio.create_task(one_user()) for _ in range(users)]
        try:
            yield traffic
        finally:
            over.set()
            await asyncio.gather(*tasks)
