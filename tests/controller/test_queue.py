"""The work queue, hours of it in milliseconds (looptime)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from llmrollouts.controller.queue import Again, BackOff, Outcome, Settled, WorkQueue

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

Round = Callable[[str], Awaitable[Outcome]]


def now() -> float:
    return asyncio.get_running_loop().time()


class Rounds:
    """Rounds that take ``seconds`` and answer what the test says; remembers when they ran."""

    def __init__(self, seconds: float = 0.0, outcome: Outcome | None = None) -> None:
        self.seconds = seconds
        self.outcomes: dict[str, list[Outcome]] = {}
        self.default: Outcome = outcome if outcome is not None else Settled()
        self.began: list[tuple[str, float]] = []
        self.together = 0
        self.most_together = 0
        self.keys_together: set[str] = set()
        self.overlapped = False

    async def __call__(self, key: str) -> Outcome:
        self.overlapped |= key in self.keys_together
        self.keys_together.add(key)
        self.began.append((key, now()))
        self.together += 1
        self.most_together = max(self.together, self.most_together)
        await asyncio.sleep(self.seconds)
        self.together -= 1
        self.keys_together.discard(key)
        planned = self.outcomes.get(key)
        return planned.pop(0) if planned else self.default

    def times(self, key: str) -> list[float]:
        return [round(at, 3) for name, at in self.began if name == key]


@asynccontextmanager
async def working(
    rounds: Round, workers: int = 4, helpers: int = 0
) -> AsyncIterator[WorkQueue[str]]:
    queue: WorkQueue[str] = WorkQueue(rounds, workers, helpers)
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        await queue.stop(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_many_nudges_of_a_waiting_key_make_one_round() -> None:
    rounds = Rounds(seconds=1)
    async with working(rounds) as queue:
        for _ in range(50):
            queue.nudge("a")
        await asyncio.sleep(10)
    assert rounds.times("a") == [0]


async def test_r31_a_nudge_in_the_middle_of_a_round_runs_the_key_again_at_once() -> None:
    rounds = Rounds(seconds=1)
    async with working(rounds) as queue:
        queue.nudge("a")
        await asyncio.sleep(0.5)
        queue.nudge("a")
        queue.nudge("a")
        await asyncio.sleep(10)
    assert rounds.times("a") == [0, 1]


async def test_rounds_of_one_key_never_overlap_and_rounds_of_many_keys_do() -> None:
    rounds = Rounds(seconds=1)
    async with working(rounds, workers=4) as queue:
        for second in range(5):
            for key in "abcdefgh":
                queue.nudge(key)
            await asyncio.sleep(0.3 + second)
        await asyncio.sleep(30)
    assert not rounds.overlapped
    assert rounds.most_together == 4


async def test_news_does_not_wait_behind_routine() -> None:
    rounds = Rounds(seconds=1)
    async with working(rounds, workers=2, helpers=3) as queue:
        for number in range(20):
            queue.wake_after(f"routine{number}", 0)
        await asyncio.sleep(0.5)
        for number in range(6):
            queue.nudge(f"news{number}")
        queue.nudge("routine19")
        await asyncio.sleep(30)
    news = [rounds.times(f"news{number}") for number in range(6)]
    assert news == [[0.5]] * 3 + [[1.5]] * 3
    # News of a key that waits already moves it forward.
    assert rounds.times("routine19")[0] <= 2.5 < rounds.times("routine18")[0]
    assert rounds.most_together == 5
    assert queue.depth == 0


async def test_news_without_end_leaves_routine_the_workers_that_it_has() -> None:
    rounds = Rounds(seconds=0.1)
    async with working(rounds, workers=2, helpers=2) as queue:

        async def tell() -> None:
            for number in range(10_000):
                queue.nudge(f"news{number % 50}")
                await asyncio.sleep(0.01)

        telling = asyncio.create_task(tell())
        await asyncio.sleep(1)
        queue.wake_after("routine", 0)
        await asyncio.sleep(5)
        telling.cancel()
    assert rounds.times("routine")[0] < 3.5, "in the order in which they came"
    assert not rounds.overlapped


async def test_workers_that_are_free_need_no_helpers() -> None:
    rounds = Rounds(seconds=1)
    async with working(rounds, workers=3, helpers=5) as queue:
        await asyncio.sleep(1)
        for key in "abc":
            queue.nudge(key)
        assert len(asyncio.all_tasks()) == 1 + 1 + 3  # this test, the queue, its workers
        await asyncio.sleep(5)
    assert rounds.most_together == 3


async def test_keys_that_nudge_themselves_all_the_time_do_not_starve_the_others() -> None:
    queue: WorkQueue[str]

    class Busy(Rounds):
        async def __call__(self, key: str) -> Outcome:
            outcome = await super().__call__(key)
            if key.startswith("busy"):
                queue.nudge(key)
            return outcome

    rounds = Busy(seconds=0.1)
    async with working(rounds, workers=2) as queue:
        for number in range(6):
            queue.nudge(f"busy{number}")
        await asyncio.sleep(1)
        queue.nudge("quiet")
        asked = now()
        await asyncio.sleep(2)
    assert rounds.times("quiet")[0] - asked < 0.5


async def test_a_settled_key_wakes_when_it_asked_to_and_earlier_on_a_nudge() -> None:
    rounds = Rounds(outcome=Settled(wake_after=100))
    async with working(rounds) as queue:
        queue.nudge("a")
        await asyncio.sleep(130)
        queue.nudge("a")
        await asyncio.sleep(90)
    assert rounds.times("a") == [0, 100, 130]


async def test_a_settled_key_without_a_time_sleeps_until_it_is_nudged() -> None:
    rounds = Rounds()
    async with working(rounds) as queue:
        queue.nudge("a")
        await asyncio.sleep(100_000)
    assert rounds.times("a") == [0]


async def test_a_failing_key_backs_off_doubling_up_to_its_longest() -> None:
    rounds = Rounds(outcome=BackOff(first=1, longest=8))
    async with working(rounds) as queue:
        queue.nudge("a")
        await asyncio.sleep(40)
    assert rounds.times("a") == [0, 1, 3, 7, 15, 23, 31, 39]


async def test_success_ends_the_back_off() -> None:
    rounds = Rounds()
    rounds.outcomes["a"] = [BackOff(first=1), BackOff(first=1), Settled(), BackOff(first=1)]
    async with working(rounds) as queue:
        queue.nudge("a")
        await asyncio.sleep(10)
        assert queue.backing_off == 0
        queue.nudge("a")
        await asyncio.sleep(10)
    assert rounds.times("a") == [0, 1, 3, 10, 11]


async def test_the_servers_retry_after_is_kept_even_when_nudged() -> None:
    rounds = Rounds()
    rounds.outcomes["a"] = [BackOff(first=0.1, at_least=5)]
    async with working(rounds) as queue:
        queue.nudge("a")
        await asyncio.sleep(1)
        for _ in range(10):
            queue.nudge("a")
            await asyncio.sleep(0.1)
        await asyncio.sleep(10)
    assert rounds.times("a") == [0, 5]


async def test_a_nudge_brings_a_backed_off_key_forward_but_not_into_a_busy_loop() -> None:
    rounds = Rounds(outcome=BackOff(first=60, longest=60))
    async with working(rounds) as queue:
        queue.nudge("a")
        for _ in range(1000):
            await asyncio.sleep(0.01)
            queue.nudge("a")
    assert 30 <= len(rounds.began) <= 41


async def test_a_lost_write_runs_again_at_once_but_not_for_ever() -> None:
    rounds = Rounds(seconds=0.01, outcome=Again())
    async with working(rounds) as queue:
        queue.nudge("a")
        await asyncio.sleep(0.035)
        assert len(rounds.began) == 4
        await asyncio.sleep(100)
    assert len(rounds.began) < 130


async def test_r26_a_key_that_hangs_or_fails_leaves_the_others_alone() -> None:
    class Poisoned(Rounds):
        async def __call__(self, key: str) -> Outcome:
            if key == "hangs":
                await asyncio.Event().wait()
            return await super().__call__(key)

    rounds = Poisoned(seconds=0.1)
    rounds.outcomes["fails"] = [BackOff()] * 1000
    async with working(rounds, workers=2) as queue:
        queue.nudge("hangs")
        queue.nudge("fails")
        for _ in range(10):
            queue.nudge("good")
            await asyncio.sleep(1)
        assert queue.longest_running() == pytest.approx(10)
    assert len(rounds.times("good")) == 10


async def test_ages_say_how_long_the_oldest_key_waits_and_runs() -> None:
    rounds = Rounds(seconds=10)
    async with working(rounds, workers=1) as queue:
        queue.nudge("a")
        await asyncio.sleep(1)
        queue.nudge("b")
        await asyncio.sleep(2)
        queue.nudge("c")
        await asyncio.sleep(1)
        assert queue.longest_running() == pytest.approx(4)
        assert queue.oldest_waiting() == pytest.approx(3)
        assert queue.depth == 2
        assert queue.seconds_since_start() == pytest.approx(4)


async def test_stopping_lets_the_running_round_finish_and_starts_no_other() -> None:
    rounds = Rounds(seconds=2)
    queue: WorkQueue[str] = WorkQueue(rounds, 1)
    task = asyncio.create_task(queue.run())
    queue.nudge("a")
    await asyncio.sleep(1)
    queue.nudge("b")
    assert await queue.stop(grace=5)
    assert now() == pytest.approx(2)
    await task
    assert [key for key, _ in rounds.began] == ["a"]


async def test_stopping_gives_up_on_a_round_that_takes_too_long() -> None:
    rounds = Rounds(seconds=60)
    queue: WorkQueue[str] = WorkQueue(rounds, 1)
    task = asyncio.create_task(queue.run())
    queue.nudge("a")
    await asyncio.sleep(1)
    assert not await queue.stop(grace=3)
    assert now() == pytest.approx(4)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_error_that_escapes_a_round_ends_the_queue_loudly() -> None:
    async def broken(key: str) -> Outcome:
        raise RuntimeError(key)

    queue: WorkQueue[str] = WorkQueue(broken)
    queue.nudge("a")
    with pytest.raises(ExceptionGroup):
        await queue.run()


async def test_a_forgotten_key_wakes_no_more() -> None:
    rounds = Rounds(outcome=Settled(wake_after=10))
    async with working(rounds) as queue:
        queue.nudge("a")
        await asyncio.sleep(1)
        queue.forget("a")
        await asyncio.sleep(100)
    assert rounds.times("a") == [0]


async def test_news_that_comes_while_the_queue_is_torn_down_is_dropped_in_silence() -> None:
    """Leadership is lost: the process ends, and its watches speak for a moment longer."""
    queue: WorkQueue[str] = WorkQueue(Rounds(1.0), workers=1, helpers=4)
    task = asyncio.create_task(queue.run())
    await asyncio.sleep(0)
    queue.nudge("a")
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for key in "bcd":
        queue.nudge(key)
    assert queue.depth == 0
