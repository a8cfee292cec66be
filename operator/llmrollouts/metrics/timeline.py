"""Puts the pages of many workers, each on its own clock, into seconds of one clock.

    worker's cohort + the life's fixed offset = tick second

The offset of a life (``clocks``) is fixed before its first cohort is taken in and never moves, so
no cohort can fall into two seconds. A second of a stream is closed, once and in order, as soon as
every worker of both arms that is heard has delivered it; a worker silent for three seconds is left
out of it and said, and what it delivers later for a closed second is dropped. A worker that
vanishes leaves what it had delivered; the rest is missing in its arm. A second in which one arm has
no worker at all is no second: nothing is ever made up. So whatever is lost, repeated or late, a
request counts once or not at all.

It decides nothing about the canary and reads no clock. Called by controller/measure; state is
small and survives JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from llmrollouts.analysis.counts import (
    Counts,
    LatencySecond,
    Measurement,
    Metric,
    Outcomes,
    OutcomeSecond,
    Stream,
)
from llmrollouts.metrics.clocks import WorkerClock, choose_edge
from llmrollouts.metrics.cursor import SETTLES, Cursor, Key, keys_of, lag_of
from llmrollouts.metrics.page import Page

Arm: TypeAlias = Literal["canary", "control"]
ARMS: Final[tuple[Arm, Arm]] = ("canary", "control")

# Seconds after which a worker that does not answer is no longer waited for.
SILENCE: Final = 3.0
# A worker that began a new life is cold: its caches are empty, its first requests slow.
WARM_UP: Final = 10.0
# Seconds of one stream that may wait for a worker; more are a clock that went wild.
_LONGEST_WAIT: Final = 600


@dataclass(frozen=True, slots=True)
class ClosedSecond:
    """One second of one stream, and how many workers of each arm stand behind it."""

    second: LatencySecond | OutcomeSecond
    canary_workers: int
    control_workers: int


@dataclass(slots=True)
class _Life:
    """One worker in one of its lives."""

    arm: Arm
    cursor: Cursor | None = None
    clock: WorkerClock = field(default_factory=WorkerClock)
    heard_at: float | None = None
    cold_until: float = -math.inf


_NO_ENDS: Final = Outcomes()


@dataclass(slots=True)
class _Side:
    """What one arm has delivered of one second of one stream. counts: by worker."""

    counts: dict[str, Counts] = field(default_factory=dict)
    ends: Outcomes = _NO_ENDS
    workers: int = 0


class Timeline:
    """``start``: the first tick second. Times are seconds of the reader's clock."""

    def __init__(self, measurement: Measurement, start: int) -> None:
        self._keys = keys_of(measurement)
        self._lives: dict[str, _Life] = {}
        self._closed: dict[Key, int] = dict.fromkeys(self._keys, start - 1)
        self._waiting: dict[Key, dict[int, dict[Arm, _Side]]] = {key: {} for key in self._keys}
        # Seconds by which ticks end after the seconds of the reader's clock, once it is fixed.
        self._edge: float | None = None
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Seconds of workers that came too late, were forgotten, or had no other arm."""
        return self._dropped

    # Who is read.

    def enlist(self, workers: Mapping[str, Arm]) -> None:
        """These workers are measured from now on, by the uid of their pod; others have gone."""
        for uid in self._lives.keys() - workers.keys():
            del self._lives[uid]
        for uid, arm in workers.items():
            if uid not in self._lives:
                self._lives[uid] = _Life(arm)

    def place_of(self, uid: str) -> tuple[float | None, str | None]:
        """(since, boot) to ask this worker for; (None, None): only its clock."""
        cursor = self._lives[uid].cursor
        return (None, None) if cursor is None else (cursor.since, cursor.boot)

    def lives_of(self, arm: Arm, now: float) -> frozenset[str]:
        """The workers of an arm that are heard."""
        return frozenset(
            uid for uid, life in self._lives.items() if life.arm == arm and _is_heard(life, now)
        )

    def restarted(self) -> frozenset[str]:
        """Workers that have begun another life while they were measured."""
        return frozenset(uid for uid, life in self._lives.items() if life.cold_until > -math.inf)

    # What they say.

    def take(self, uid: str, page: Page, at: float) -> None:
        """Take in one page that its worker wrote at ``at``."""
        life = self._lives.get(uid)
        if life is None:
            return
        if life.cursor is None or life.cursor.boot != page.boot:
            self._begin(life, page, at)
            return
        if page.now <= life.cursor.through:
            return  # stale, or a copy: it is no sign of life either
        life.heard_at = at
        life.clock.note(page.now, at)
        taken = life.cursor.take(page)
        self._dropped += taken.lost
        if at < life.cold_until:
            return
        arm, offset = life.arm, self._fix_offset(life)
        for key, cohorts in taken.covered.items():
            for cohort in cohorts:
                side = self._side(key, cohort + offset, arm)
                if side is not None:
                    side.workers += 1
        for stream, cohort, counts in taken.counts:
            side = self._side(stream, cohort + offset, arm)
            if side is not None:
                before = side.counts.get(uid)
                side.counts[uid] = counts if before is None else before + counts
        for lag, cohort, ends in taken.ends:
            side = self._side(lag, cohort + offset, arm)
            if side is not None:
                side.ends = side.ends + ends

    def close(self, now: float) -> tuple[ClosedSecond, ...]:
        """The seconds that are complete at ``now``, each once, rising within a stream."""
        frontier = self._frontier(now)
        if frontier is None:
            return ()
        out: list[ClosedSecond] = []
        for key in self._keys:
            last = max(self._closed[key], frontier[key])
            waiting = self._waiting[key]
            for second in sorted(tick for tick in waiting if tick <= last):
                sides = waiting.pop(second)
                if len(sides) == len(ARMS):
                    out.append(_close(key, second, sides["canary"], sides["control"]))
                else:
                    self._dropped += 1
            self._closed[key] = last
        return tuple(out)

    def closes_at(self, now: float) -> float | None:
        """A moment, of many a second apart, at which a second of the stream that is read youngest
        is complete at all who are heard; None: nobody is."""
        behind = [life.clock.behind for life in self._awaited(now) if life.clock.is_known]
        if not behind:
            return None
        return min(map(lag_of, self._keys), default=0.0) + SETTLES + max(behind)

    # What survives.

    def to_json(self) -> str:
        return json.dumps(
            {
                "closed": [[*_plain(key), last] for key, last in self._closed.items()],
                "lives": {
                    uid: [life.arm, life.cursor.boot, life.clock.offset]
                    for uid, life in self._lives.items()
                    if life.cursor is not None and life.clock.offset is not None
                },
                "edge": self._edge,
                "dropped": self._dropped,
            }
        )

    @classmethod
    def from_json(cls, text: str, measurement: Measurement, now: float) -> Timeline:
        """Goes on where the stored one had closed its last seconds: what the workers still
        remember is read again, and counted once. All of them are waited for as if they had just
        been heard. Raises ValueError."""
        timeline = cls(measurement, 0)
        try:
            raw = json.loads(text)
            closed = {_key(name, float(lag)): int(last) for name, lag, last in raw["closed"]}
            if closed.keys() != timeline._closed.keys():
                raise ValueError("it is of another measurement")
            timeline._closed = closed
            timeline._dropped = int(raw["dropped"])
            edge = raw.get("edge")
            timeline._edge = None if edge is None else float(edge)
            for uid, (arm, boot, offset) in raw["lives"].items():
                if arm not in ARMS:
                    raise ValueError(f"no arm: {str(arm)[:20]}")
                done = {key: last - int(offset) for key, last in closed.items()}
                cursor = Cursor.after(done, str(boot))
                timeline._lives[str(uid)] = _Life(arm, cursor, WorkerClock(int(offset)), now)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"this is no stored timeline: {error}") from error
        return timeline

    # How.

    def _begin(self, life: _Life, page: Page, at: float) -> None:
        """A life is heard for the first time: what it had before is not ours.

        A restart in the middle is a cold worker, and what its old life had not delivered is lost.
        """
        if life.cursor is not None:
            life.cold_until = at + WARM_UP
        life.cursor = Cursor.at(self._keys, page.boot, page.now)
        life.clock = WorkerClock()
        life.clock.note(page.now, at)
        life.heard_at = at

    def _fix_offset(self, life: _Life) -> int:
        """Done when a look is over, so all that can be heard has been."""
        if self._edge is None and life.clock.offset is None:
            heard = [each for each in self._lives.values() if each.clock.is_known]
            canary = [each for each in heard if each.arm == "canary"]
            self._edge = choose_edge(each.clock.behind for each in canary or heard)
        return life.clock.fix(self._edge or 0.0)

    def _side(self, key: Key, second: int, arm: Arm) -> _Side | None:
        """Where a delivery belongs; None when that second is closed."""
        closed = self._closed[key]
        if second <= closed:
            self._dropped += 1
            return None
        waiting = self._waiting[key]
        if second not in waiting and len(waiting) >= _LONGEST_WAIT:
            self._dropped += 1
            return None
        return waiting.setdefault(second, {}).setdefault(arm, _Side())

    def _frontier(self, now: float) -> dict[Key, int] | None:
        """The last second of each stream that all who are heard have delivered."""
        heard = [
            (life.cursor.done, self._fix_offset(life))
            for life in self._awaited(now)
            if life.cursor is not None
        ]
        if not heard:
            return None
        return {key: min(done[key] + offset for done, offset in heard) for key in self._keys}

    def _awaited(self, now: float) -> list[_Life]:
        """The lives without which no second is complete."""
        return [
            life
            for life in self._lives.values()
            if _is_heard(life, now) and now >= life.cold_until and life.cursor is not None
        ]


def _is_heard(life: _Life, now: float) -> bool:
    return life.heard_at is not None and now - life.heard_at <= SILENCE


def _close(key: Key, second: int, canary: _Side, control: _Side) -> ClosedSecond:
    if isinstance(key, Stream):
        ours, theirs = list(canary.counts.values()), list(control.counts.values())
        tick: LatencySecond | OutcomeSecond = LatencySecond(
            key, second, _sum(ours), _sum(theirs), workers=canary.counts
        )
    else:
        tick = OutcomeSecond(key, second, canary.ends, control.ends)
    return ClosedSecond(tick, canary.workers, control.workers)


def _sum(parts: list[Counts]) -> Counts:
    """The counts of several workers, in one pass."""
    if len(parts) == 1:
        return parts[0]
    done: dict[int, int] = {}
    left: dict[int, int] = {}
    over, beyond = 0, [part.beyond for part in parts if part.beyond]
    for part in parts:
        for bucket, count in part.done.items():
            done[bucket] = done.get(bucket, 0) + count
        for bucket, count in part.left.items():
            left[bucket] = left.get(bucket, 0) + count
        over += part.over
    sums = tuple(
        (sum(k for k, _ in column), sum(n for _, n in column))
        for column in zip(*beyond, strict=True)
    )
    return Counts(done, left, over, sums)


def _plain(key: Key) -> tuple[str, float]:
    return (key.metric.value, key.lag) if isinstance(key, Stream) else ("errors", key)


def _key(name: str, lag: float) -> Key:
    return lag if name == "errors" else Stream(Metric(name), lag)
