"""Asks many workers at once, and finds out whether a revision has no tap at all.

It decides nothing about a canary. Used by controller/measure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from llmrollouts.metrics.page import NoTap, PageError, has_no_tap
from llmrollouts.metrics.port import Query, Reading, SampleReader, Worker


async def read_all(
    reader: SampleReader, asked: Iterable[tuple[Worker, Query]]
) -> list[tuple[Worker, Reading | PageError]]:
    """All at once; an error is an answer too."""

    async def one(worker: Worker, query: Query) -> tuple[Worker, Reading | PageError]:
        try:
            return worker, await reader.read(worker, query)
        except PageError as problem:
            return worker, problem

    return list(await asyncio.gather(*(one(worker, query) for worker, query in asked)))


async def lack_the_tap(reader: SampleReader, workers: Iterable[Worker]) -> bool:
    """Whether all of these answer, and only to say that they have no tap. One odd worker is left
    out of a comparison; it does not blind the others."""
    problems: list[PageError] = []
    for worker, answer in await read_all(reader, ((worker, Query()) for worker in workers)):
        if isinstance(answer, PageError):
            problems.append(answer)
        elif answer.page.tap:
            return False
        else:
            problems.append(has_no_tap(worker.name))
    return none_but_the_tap(problems)


def none_but_the_tap(problems: Collection[PageError]) -> bool:
    """Whether there is a problem, and none is anything else than the want of a tap."""
    return bool(problems) and all(isinstance(each, NoTap) for each in problems)
