"""Asks a Prometheus for one number, within a time, without ever holding up the event loop.

prometheus-api-client waits where it asks, so each evaluation runs in a thread of its own pool, at
most ``THREADS`` at once and ``PER_HOST`` for one Prometheus (one that hangs must not use up the
threads of the others). When the time is over the connection is cut, which frees the thread also
when the other side sends a byte now and then for ever. The library is loaded in the thread, at the
first question: an operator without such gates never loads it.
It decides nothing about a gate. Called by controller/prometheus_gates.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from llmrollouts.api.duration import format_duration
from llmrollouts.api.reasons import Reason
from llmrollouts.metrics.prometheus_address import Permit
from llmrollouts.metrics.prometheus_answer import Sample, Unanswered, show
from llmrollouts.metrics.prometheus_query import ask_for_young_data

if TYPE_CHECKING:
    from llmrollouts.metrics.prometheus_http import Conversation

THREADS: Final = 16
PER_HOST: Final = 8


@dataclass(frozen=True, slots=True)
class Credentials:
    """Secrets: none of them is ever printed. basic: user name and password; the others PEM."""

    bearer: str | None = field(default=None, repr=False)
    basic: tuple[str, str] | None = field(default=None, repr=False)
    authorities: str | None = field(default=None, repr=False)
    certificate: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Question:
    """queries: asked one after the other, one number each. max_age, seconds: of the data; for all
    queries together."""

    permit: Permit
    credentials: Credentials
    queries: tuple[str, ...]
    max_age: float
    seconds: float


class PrometheusPort(Protocol):
    async def ask(self, question: Question) -> tuple[float, ...]:
        """A number for each query. Raises Unanswered."""


class PrometheusClient:
    """The PrometheusPort over HTTP. ``wall``: seconds since 1970."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._pool: ThreadPoolExecutor | None = None
        self._hosts: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(PER_HOST)
        )

    async def ask(self, question: Question) -> tuple[float, ...]:
        """A number for each query. Raises Unanswered; cancellation cuts the connection."""
        end = time.monotonic() + question.seconds
        try:
            async with asyncio.timeout(question.seconds):
                await self._hosts[question.permit.address.host].acquire()
        except TimeoutError:
            raise _late(question) from None
        try:
            return await self._ask_in_thread(question, end)
        finally:
            self._hosts[question.permit.address.host].release()

    async def _ask_in_thread(self, question: Question, end: float) -> tuple[float, ...]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="prometheus")
        talk = _Talk(question, end, self._wall)
        running = self._pool.submit(talk.run)
        waiting = asyncio.wrap_future(running)
        try:
            done, _ = await asyncio.wait({waiting}, timeout=end - time.monotonic())
            if not done:
                raise _late(question)
            return waiting.result()
        except Unanswered as error:
            if error.reason is Reason.NOT_ANSWERED_IN_TIME:
                raise _late(question) from None
            raise
        finally:
            if not running.done():
                # Nobody waits for it any more: it must end soon, and how is of no interest.
                waiting.cancel()
                talk.cut()

    def close(self) -> None:
        """Give the threads back; none is waited for."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


class _Talk:
    """One evaluation, in its thread; ``cut`` ends it from another."""

    def __init__(self, question: Question, end: float, wall: Callable[[], float]) -> None:
        self._question = question
        self._end = end
        self._wall = wall
        self._conversation: Conversation | None = None
        self._is_cut = False

    def run(self) -> tuple[float, ...]:
        from llmrollouts.metrics.prometheus_http import Conversation  # noqa: PLC0415 - see above

        given = self._question
        with Conversation(given.permit, given.credentials, self._end) as conversation:
            self._conversation = conversation
            if self._is_cut:
                raise _late(given)
            return tuple(self._ask(conversation, query) for query in given.queries)

    def _ask(self, conversation: Conversation, query: str) -> float:
        sample = conversation.ask(query)
        self._refuse_old(sample, query)
        young = ask_for_young_data(query, self._question.max_age)
        if young is not None and not conversation.finds(young):
            raise Unanswered(
                Reason.STALE_ANSWER,
                "no metric of the query has a sample of the last "
                f"{format_duration(self._question.max_age)}, so its answer is about the past: "
                f"check that Prometheus still scrapes these workers: {show(query)}",
            )
        return sample.value

    def _refuse_old(self, sample: Sample, query: str) -> None:
        """The answer itself: a cache on the way may hand out an old one."""
        apart = self._wall() - sample.at
        if abs(apart) > self._question.max_age:
            when = "before" if apart > 0 else "after"
            raise Unanswered(
                Reason.STALE_ANSWER,
                f"the answer is of {format_duration(abs(apart))} {when} the operator's clock: a "
                f"cache answered, or the clocks disagree: {show(query)}",
            )

    def cut(self) -> None:
        self._is_cut = True
        if self._conversation is not None:
            self._conversation.cut()


def _late(question: Question) -> Unanswered:
    return Unanswered(
        Reason.NOT_ANSWERED_IN_TIME,
        f"no answer within {format_duration(question.seconds)}: raise the gate's timeout, or make "
        f"the query cheaper with a recording rule: {show(question.queries[0])}",
    )
