"""The engine's core: sequences wait, join a running batch, and get one token a step.

A step's duration follows `Behavior.step_ms`, so time to first token and time per token
grow with load, prompts that were seen before are cheaper (prefix cache by chained block hashes),
and a frozen engine (`hang`) makes no progress while its API server goes on answering.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from .behavior import Behavior

KV_CACHE_TOKENS = 1_048_576
HANG_POLL_SECONDS = 0.05


@dataclass(eq=False)
class Generation:
    """One answer being generated. Times are `time.monotonic()` seconds."""

    prompt: Sequence[int]
    total_tokens: int  # tokens that it will generate
    changed: asyncio.Event  # set after each token and at the end; shared by a request's choices
    finish_reason: str = "length"
    max_tokens: int = 0
    choices: int = 1  # how many answers to its prompt were asked for
    leads: bool = True  # the first of those
    arrived: float = field(default_factory=time.monotonic)
    prefilled: int = 0
    cached: int = 0
    generated: int = 0
    scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    finished: bool = False
    aborted: bool = False


@dataclass(frozen=True)
class Step:
    """What one step did; gaps are seconds between two tokens of one generation."""

    tokens: int
    started: list[Generation]
    gaps: list[float]
    ended: list[Generation]


class PrefixCache:
    """Remembers blocks of prompts; the oldest unused go first."""

    def __init__(self, block_size: int, capacity: int) -> None:
        self._block_size = block_size
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def look_up_and_store(self, prompt: Sequence[int]) -> int:
        """How many leading tokens were known; all full blocks are known from now on."""
        known, chain, still_known = 0, 0, True
        for start in range(0, len(prompt) - self._block_size + 1, self._block_size):
            chain = hash((chain, tuple(prompt[start : start + self._block_size])))
            if chain in self._blocks:
                self._blocks.move_to_end(chain)
                if still_known:
                    known = start + self._block_size
            else:
                still_known = False
                self._blocks[chain] = None
                if len(self._blocks) > self._capacity:
                    self._blocks.popitem(last=False)
        # The last token is always computed, and with it its block: it gives the first new token.
        return min(known, (len(prompt) - 1) // self._block_size * self._block_size)


class Batch:
    """The waiting line, the running batch, and the loop that makes steps."""

    def __init__(
        self,
        behavior: Callable[[], Behavior],
        *,
        max_num_seqs: int,
        max_batched_tokens: int,
        cache: PrefixCache | None,
        on_step: Callable[[Step], None],
    ) -> None:
        self._behavior = behavior
        self._max_num_seqs = max_num_seqs
        self._max_batched_tokens = max_batched_tokens
        self._cache = cache
        self._on_step = on_step
        self._work = asyncio.Event()
        self._jitter = random.Random(behavior().seed)  # noqa: S311 - timing, not secrets
        self.waiting: deque[Generation] = deque()
        self.running: list[Generation] = []
        self.unfinished = 0
        self.empty = asyncio.Event()
        self.empty.set()

    @property
    def kv_cache_usage(self) -> float:
        used = sum(len(one.prompt) + one.generated for one in self.running)
        return used / KV_CACHE_TOKENS

    def submit(self, sequence: Generation) -> None:
        """Queue a sequence after the fixed part of its time to first token."""
        self.unfinished += 1
        self.empty.clear()
        delay = self._behavior().ttft_ms * self._behavior().slowdown / 1000
        if delay > 0:
            asyncio.get_running_loop().call_later(delay, self._enqueue, sequence)
        else:
            self._enqueue(sequence)

    def _enqueue(self, sequence: Generation) -> None:
        if not sequence.finished:
            self.waiting.append(sequence)
            self._work.set()

    def abort(self, sequence: Generation) -> None:
        """Drop a sequence wherever it is; it ends as aborted."""
        if sequence.finished:
            return
        sequence.aborted = True
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._finish(sequence)

    def _finish(self, sequence: Generation) -> None:
        sequence.finished = True
        self.unfinished -= 1
        if self.unfinished == 0:
            self.empty.set()
        sequence.changed.set()

    async def run(self) -> None:
        """Make steps for ever."""
        step_end = time.monotonic()
        while True:
            if not self.waiting and not self.running:
                self._work.clear()
                await self._work.wait()
                step_end = time.monotonic()
            while self._behavior().hang:
                await asyncio.sleep(HANG_POLL_SECONDS)
                step_end = time.monotonic()
            prefilled = self._schedule()
            # Steps end at absolute times, so that the timer's own lateness does not add up.
            step_end = max(step_end, time.monotonic() - 0.1) + self._duration(prefilled)
            await asyncio.sleep(max(0.0, step_end - time.monotonic()))
            self._emit(prefilled)

    def _schedule(self) -> int:
        """Admit what fits and spend the step's token budget on prompts; tokens prefilled."""
        now = time.monotonic()
        while self.waiting and len(self.running) < self._max_num_seqs:
            sequence = self.waiting.popleft()
            sequence.scheduled = now
            if self._cache is not None:
                sequence.cached = self._cache.look_up_and_store(sequence.prompt)
                sequence.prefilled = sequence.cached
            self.running.append(sequence)
        budget = self._max_batched_tokens
        spent = 0
        for sequence in self.running:
            missing = len(sequence.prompt) - sequence.prefilled
            if missing > 0 and budget > 0:
                part = min(missing, budget)
                sequence.prefilled += part
                budget -= part
                spent += part
        return spent

    def _duration(self, prefilled: int) -> float:
        behavior = self._behavior()
        step = behavior.step_ms(len(self.running), prefilled)
        if behavior.jitter > 0:
            step *= max(0.1, self._jitter.gauss(1.0, behavior.jitter))
        return step / 1000

    def _emit(self, prefilled: int) -> None:
        now = time.monotonic()
        step = Step(prefilled, [], [], [])
        generated = 0
        for one in self.running:
            if one.prefilled < len(one.prompt):
                continue
            if one.generated < one.total_tokens:
                one.generated += 1
                generated += 1
            if one.first_token is None or one.last_token is None:
                one.first_token = now
                step.started.append(one)
            else:
                step.gaps.append(now - one.last_token)
            one.last_token = now
            one.changed.set()
            if one.generated >= one.total_tokens:
                step.ended.append(one)
        if step.ended:
            gone = set(map(id, step.ended))
            self.running = [one for one in self.running if id(one) not in gone]
            for one in step.ended:
                self._finish(one)
        self._on_step(replace(step, tokens=prefilled + generated))
