"""What a step can find, in words: the regressions that are looked for, and what becomes of each.

It computes nothing (analysis/sizing does) and imports nothing heavy, so that the state machine and
the CLI can carry its sentences. Used by `kubectl llm plan` and, for a running step, by the
operator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

# Found within this time: quick enough to be told beside the smallest that is found at all.
_QUICK: Final = 30.0


@dataclass(frozen=True, slots=True)
class Effect:
    """A regression: ``touched`` of the requests are ``ratio`` times slower, or ``failing`` of them
    fail (on top of what fails on stable). metric: of the latency that is slower, where that makes a
    difference; empty: any."""

    name: str
    ratio: float = 1.0
    touched: float = 1.0
    failing: float = 0.0
    metric: str = ""

    def of(self, metric: str) -> Effect:
        """The same regression of one latency."""
        return replace(self, name=f"{metric} {self.name}", metric=metric)


EFFECTS: Final = (
    Effect("+10%", 1.10),
    Effect("+25%", 1.25),
    Effect("+50%", 1.5),
    Effect("2x", 2.0),
    Effect("4x", 4.0),
    Effect("5% of requests 5x", 5.0, touched=0.05),
    Effect("1% errors", failing=0.01),
    Effect("5% errors", failing=0.05),
    Effect("20% errors", failing=0.2),
    Effect("100% errors", failing=1.0),
)


@dataclass(frozen=True, slots=True)
class Power:
    """What becomes of one effect, from its first request on. Seconds; None: not in this step.

    Not contained: the age at which a request counts (its largest threshold) and the way of the
    verdict to the gateways.
    """

    effect: Effect
    median: float | None
    p95: float | None

    def requests(self, rate: float) -> int | None:
        """Canary requests until it is found in 95 of 100 runs."""
        return math.ceil(self.p95 * rate) if self.p95 is not None else None


@dataclass(frozen=True, slots=True)
class Reach:
    """What a step finds at a rate of compared canary requests a second.

    rate: as text, two digits; finds: a few words, such as ``+25% slower within 5 min``, empty when
    it finds nothing at all; blind: it finds no slower revision; message: one sentence for people.
    """

    rate: str
    finds: str
    blind: bool
    message: str


def is_blind(powers: Sequence[Power]) -> bool:
    """Whether the step finds no slower revision at all."""
    return all(power.p95 is None for power in powers if not power.effect.failing)


def describe_reach(powers: Sequence[Power], rate: float) -> Reach:
    """The smallest regressions that the step finds in 95 of 100 runs. rate: compared canary
    requests a second."""
    latency = [p for p in powers if not p.effect.failing and p.effect.touched == 1]
    failing = _smallest_found([p for p in powers if p.effect.failing])
    found: list[str] = []
    unseen: list[str] = []
    for metric in dict.fromkeys(p.effect.metric for p in latency):
        told = _tell_slower([p for p in latency if p.effect.metric == metric])
        found += told
        if not told:
            unseen.append(metric)
    slow = bool(found)
    if failing is not None:
        found.append(f"{failing.effect.name} within {_span(failing.p95)}")
    pace = format_rate(rate)
    said = f"With {pace} compared canary requests a second this step"
    if not found:
        said = f"{said} can find nothing: it is too short or sees too few requests"
    else:
        said = f"{said} finds {', '.join(found)} (95 of 100 times)"
        if not slow:
            said += ", but no slower revision, not even one 4x slower"
        elif unseen:
            said += f", but no slower {' and no slower '.join(unseen)}, not even 4x"
        elif failing is None:
            said += ", but no failures"
    return Reach(pace, ", ".join(found), is_blind(powers), said)


def format_rate(rate: float) -> str:
    """Two digits, never in powers of ten: "0.012", "4.2", "420"."""
    return f"{float(f'{rate:.2g}'):.10f}".rstrip("0").rstrip(".")


def _tell_slower(powers: Sequence[Power]) -> list[str]:
    """The smallest that is found at all, and the smallest that is found quickly."""
    slow = _smallest_found(powers)
    if slow is None:
        return []
    found = [f"{slow.effect.name} slower within {_span(slow.p95)}"]
    quick = next((p for p in powers if p.p95 is not None and p.p95 <= _QUICK), None)
    if quick is not None and quick is not slow:
        found.append(f"{quick.effect.name} slower within {_span(quick.p95)}")
    return found


def _smallest_found(powers: Sequence[Power]) -> Power | None:
    return next((p for p in powers if p.p95 is not None), None)


def _span(seconds: float | None) -> str:
    value = math.ceil(seconds or 0)
    return f"{value} s" if value < 120 else f"{math.ceil(value / 60)} min"
