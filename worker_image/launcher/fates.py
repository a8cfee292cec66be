"""What is said of one request, asked about it at one age. Pure; all definitions are here.

A request is asked about at the age `lag`, never later: what happened to it after that does not
count, so the answer is the same whenever it is given. One of

    done   (DONE, value)  its value is known
    left   (LEFT, age)    its client went away without an answer: the value would have been above
    over   (OVER, 0)      still unanswered, or failed by the server
    None                  it says nothing of this metric

`docs/worker-tap.md` is the same as a table for people.
"""

from __future__ import annotations

from .cohorts import Request
from .tap.llmrollouts_tap import wire

DONE, LEFT, OVER = 0, 1, 2
Fate = tuple[int, float]
_OVER: Fate = (OVER, 0.0)

TTFT, TPOT, E2E, DURATION = "ttft", "tpot", "e2e", "duration"
METRICS = (TTFT, TPOT, E2E, DURATION)

FAILURES = (wire.FAILED, wire.EMPTY, wire.TRUNCATED, wire.CUT)


def read_fate(request: Request, metric: str, lag: float, reference: int) -> Fate | None:
    """`reference`: the output token, a power of two, whose age is the E2E value."""
    end = request.end if request.end_age <= lag else 0
    streams_only = metric in (TTFT, TPOT)
    if lag > request.blind or end == wire.REFUSED or (streams_only and not request.streamed):
        return None
    if end in FAILURES:
        return _OVER
    if metric == E2E:
        return _to_token(request, end, lag, reference)
    return _READERS[metric](request, end, lag)


def _first_token(request: Request, end: int, lag: float) -> Fate | None:
    if request.marks and request.marks[0] <= lag:
        return DONE, request.marks[0]
    return (LEFT, request.end_age) if end == wire.LEFT else _OVER


def _per_token(request: Request, end: int, lag: float) -> Fate | None:
    marks = request.marks
    first = marks[0] if marks and marks[0] <= lag else None
    if first is None:
        # Who left before the first token says nothing of the others.
        return None if end == wire.LEFT else _OVER
    if end:
        if request.tokens >= 2:
            return DONE, max(0.0, request.last_age - first) / (request.tokens - 1)
        return (LEFT, request.end_age - first) if end == wire.LEFT else None
    reached = [age for age in marks if age <= lag]
    tokens = 1 << (len(reached) - 1)
    # It has at least `tokens` tokens and fewer than twice as many.
    value = (lag - first) / (2 * tokens - 1)
    if tokens > 1:
        value = max(value, (reached[-1] - first) / (tokens - 1))
    return DONE, value


def _to_token(request: Request, end: int, lag: float, reference: int) -> Fate | None:
    marks = request.marks
    place = reference.bit_length() - 1
    if len(marks) > place and marks[place] <= lag:
        return DONE, marks[place]
    if end == wire.LEFT:
        return LEFT, request.end_age
    if not end:
        return _OVER
    if request.tokens < 2 and reference > 1:
        return None
    if not request.streamed:
        return DONE, request.end_age * reference / max(1, request.tokens)
    first = marks[0] if marks else request.end_age
    rate = (request.end_age - first) / max(1, request.tokens - 1)
    return DONE, first + rate * (reference - 1)


def _whole(request: Request, end: int, _lag: float) -> Fate | None:
    if end == wire.LEFT:
        return LEFT, request.end_age
    return (DONE, request.end_age) if end else _OVER


_READERS = {TTFT: _first_token, TPOT: _per_token, DURATION: _whole}


def read_outcome(request: Request, lag: float) -> tuple[int, int, int]:
    """(1 if it counts, 1 if it failed, 1 if it was refused) by the age `lag`."""
    if lag > request.blind:
        return 0, 0, 0
    end = request.end if request.end_age <= lag else 0
    if end == wire.LEFT:
        answered = bool(request.marks) and request.marks[0] <= lag
        return int(answered), 0, 0
    return 1, int(end in FAILURES), int(end == wire.REFUSED)
