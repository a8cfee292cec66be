"""What a Prometheus answered: one number and its time, or the reason why it is none.

Anything but exactly one finite number raises ``Unanswered``, so that NaN, nothing, too much and
nonsense can never be mistaken for a good or a bad value (R08). Pure; called by prometheus_http.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from llmrollouts.api.reasons import Reason

_SHOWN: Final = 300


class Unanswered(Exception):
    """There is no number, and why. The message is for people and holds no credential and nothing
    that the other side sent, except what Prometheus says of the query itself.

    lasting: asking again is no use until somebody changes something.
    """

    def __init__(self, reason: Reason, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Sample:
    """at: seconds since 1970, on the clock of the Prometheus."""

    value: float
    at: float


def read_sample(result: Any, query: str) -> Sample:
    """The only number in ``result`` (the ``data.result`` of an instant query). Raises Unanswered;
    ``query``: as it was asked, for the message."""
    if not isinstance(result, list):
        raise _unusable()
    if len(result) == 2 and not isinstance(result[0], dict):
        return _read_pair(result, query)  # a scalar
    if not result:
        raise Unanswered(
            Reason.NO_SERIES,
            "the query found no series: check that Prometheus scrapes these workers and that the "
            f"labels are right: {show(query)}",
        )
    if len(result) > 1:
        raise Unanswered(
            Reason.SEVERAL_SERIES,
            f"the query found {len(result)} series where one number is needed: put sum(), avg() or "
            f"max() around it: {show(query)}",
        )
    found = result[0]
    if not isinstance(found, dict) or "value" not in found:
        raise Unanswered(
            Reason.NOT_A_NUMBER,
            "the query yields no single number (a range or a histogram): put a function around "
            f"it: {show(query)}",
        )
    return _read_pair(found["value"], query)


def show(query: str) -> str:
    """The query on one line, not too long for a status."""
    line = " ".join(query.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _read_pair(pair: Any, query: str) -> Sample:
    try:
        at, text = pair
        value, time = float(text), float(at)
    except (TypeError, ValueError):
        raise _unusable() from None
    if not math.isfinite(value):
        told = "NaN (0 divided by 0, or no request)" if math.isnan(value) else f"{value:+}"
        raise Unanswered(
            Reason.NOT_A_NUMBER, f"the answer is {told}, which says nothing: {show(query)}"
        )
    if not math.isfinite(time):
        raise _unusable()
    return Sample(value, time)


def _unusable() -> Unanswered:
    return Unanswered(
        Reason.UNUSABLE_ANSWER,
        "the answer is none that a Prometheus gives: check the address, there may be something "
        "else behind it",
    )
