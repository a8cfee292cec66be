"""What the running step can find at its real rate, worked out beside the event loop.

The rate is that of the whole stage so far. The first word comes when the rate is known well
enough, another one at most every minute and only when the rate has changed by a fifth. One
calculation takes up to a second of a core, so it runs in a thread, and one at a time for all
rollouts with a pause after each: the seconds of the measurements never wait for it, and a hundred
steps that begin together take a fifth of a core. It decides nothing. Called by controller/measure.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final

from llmrollouts.analysis.baseline import Baseline
from llmrollouts.analysis.judgement import Judgement
from llmrollouts.analysis.reach import Reach
from llmrollouts.analysis.rounded_sizing import find_rounded_reach
from llmrollouts.analysis.sizing import find_reach
from llmrollouts.analysis.stage import Stage

LOG: Final = logging.getLogger(__name__)

EVERY: Final = 60.0
# A smaller change of the rate changes nothing that a person would do.
_CHANGED: Final = math.log(1.2)
# A rate is known after so many requests and seconds, or, where hardly any come, after this long
# or half of the stage.
_FEW_REQUESTS: Final = 20
_SHORTEST: Final = 30
_LONGEST: Final = 300
# The pause after a calculation, in times of its length.
_PAUSES: Final = 4.0


class StepPower:
    """Of one deployment. ``turn``: shared by all, so that one calculates at a time."""

    def __init__(self, turn: asyncio.Semaphore) -> None:
        self._turn = turn
        self._stage = ""
        self._rates: tuple[float, float] | None = None
        self._reach: Reach | None = None
        self._due = -math.inf
        self._task: asyncio.Task[None] | None = None

    def known(self, stage: str) -> Reach | None:
        """What was found for the stage of this name; None: nothing yet."""
        return self._reach if stage == self._stage else None

    def look(
        self, stage: Stage, judgement: Judgement, now: float, rounded: Baseline | None = None
    ) -> None:
        """Begin to calculate when it is due. ``now``: seconds; ``rounded``: what stable was like,
        where the engines have no tap. Never waits."""
        if stage.name != self._stage:
            self.stop()
            self._stage, self._rates, self._reach, self._due = stage.name, None, None, -math.inf
        if now < self._due or (self._task is not None and not self._task.done()):
            return
        seconds = judgement.seconds
        if not _is_known(judgement.canary_requests, seconds, stage.ticks):
            return
        rates = (judgement.canary_requests / seconds, judgement.control_requests / seconds)
        self._due = now + EVERY
        if self._rates is None or _differ(rates, self._rates):
            self._task = asyncio.get_running_loop().create_task(
                self._find(stage, rates, rounded), name=f"power {stage.name}"
            )

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _find(
        self, stage: Stage, rates: tuple[float, float], rounded: Baseline | None
    ) -> None:
        loop = asyncio.get_running_loop()
        async with self._turn:
            began = loop.time()
            try:
                if rounded is None:
                    self._reach = await asyncio.to_thread(find_reach, stage, *rates)
                else:
                    self._reach = await asyncio.to_thread(
                        find_rounded_reach, stage, rounded, *rates
                    )
                self._rates = rates
            except Exception as problem:
                # The verdict does not need it; it is tried again a minute later.
                names = {"stage": stage.name, "rates": str(rates), "error": str(problem)[:300]}
                LOG.exception("Failed to work out what a step can find", extra=names)
            await asyncio.sleep(_PAUSES * (loop.time() - began))


def _is_known(requests: int, seconds: int, ticks: int) -> bool:
    if requests >= _FEW_REQUESTS:
        return seconds >= _SHORTEST
    return seconds >= max(1, min(_LONGEST, ticks // 2))


def _differ(now: tuple[float, float], was: tuple[float, float]) -> bool:
    return any(
        (new > 0) != (old > 0) or (new > 0 and abs(math.log(new / old)) > _CHANGED)
        for new, old in zip(now, was, strict=True)
    )
