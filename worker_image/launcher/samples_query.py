"""Reads the query of `/samples`: what the operator wants counted, and since when. Pure.

since=12.5&boot=<hex>&lags=ttft:2;e2e:4.2,8;errors:2,30&exact=ttft:0.35&reference=64
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

from .cohorts import LONGEST_LAG
from .fates import E2E, METRICS

ERRORS = "errors"
FIELDS = ("since", "boot", "lags", "exact", "reference")
MOST_LAGS = 16  # of one metric
MOST_EXACT = 64
LONGEST_VALUE = 1e5  # seconds
LONGEST_REFERENCE = 1 << 20


class BadQuery(ValueError):
    """The message is one sentence for the page."""


@dataclass(frozen=True)
class Query:
    """streams: (metric, lag) in the order asked for. reference: 0 when none is given."""

    since: float | None = None
    boot: str = ""
    streams: tuple[tuple[str, float], ...] = ()
    outcome_lags: tuple[float, ...] = ()
    exact: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    reference: int = 0

    @property
    def longest_lag(self) -> float:
        return max([*(lag for _, lag in self.streams), *self.outcome_lags], default=0.0)


def parse_query(text: str) -> Query:
    """Raises BadQuery."""
    given = _split(text)
    lags = _read_lists(given.get("lags", ""), "lags", (*METRICS, ERRORS), MOST_LAGS, LONGEST_LAG)
    exact = _read_lists(given.get("exact", ""), "exact", METRICS, MOST_EXACT, LONGEST_VALUE)
    reference = _read_reference(given.get("reference"))
    if E2E in lags and not reference:
        raise BadQuery("lags asks for e2e, which needs reference, the number of a token.")
    return Query(
        since=_read_number(given["since"], "since", math.inf) if "since" in given else None,
        boot=given.get("boot", ""),
        streams=tuple(
            (metric, lag) for metric, values in lags.items() if metric != ERRORS for lag in values
        ),
        outcome_lags=lags.get(ERRORS, ()),
        exact=exact,
        reference=reference,
    )


def _split(text: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for part in text.split("&") if text else []:
        name, equals, value = part.partition("=")
        if name not in FIELDS or not equals:
            raise BadQuery(f"{name[:40]!r} is no field of the query; fields: {', '.join(FIELDS)}.")
        if name in given:
            raise BadQuery(f"{name} is given twice.")
        given[name] = unquote_plus(value)
    return given


def _read_lists(
    text: str, where: str, names: tuple[str, ...], most: int, largest: float
) -> dict[str, tuple[float, ...]]:
    """`ttft:2;e2e:4.2,8` -> {"ttft": (2.0,), "e2e": (4.2, 8.0)}."""
    found: dict[str, tuple[float, ...]] = {}
    for part in text.split(";") if text else []:
        name, _, listed = part.partition(":")
        if name not in names:
            raise BadQuery(f"{where} names {name[:40]!r}; it may name {', '.join(names)}.")
        if name in found:
            raise BadQuery(f"{where} names {name} twice.")
        values = tuple(_read_number(value, where, largest) for value in listed.split(","))
        if len(values) > most:
            raise BadQuery(f"{where} gives {len(values)} values for {name}, at most {most} may be.")
        if min(values) <= 0 or len(set(values)) != len(values):
            raise BadQuery(f"the values of {name} in {where} must differ and lie above 0.")
        found[name] = values
    return found


def _read_number(text: str, where: str, largest: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not 0 <= value <= largest:
        raise BadQuery(f"{text[:40]!r} in {where} is no number of seconds up to {largest:g}.")
    return value


def _read_reference(text: str | None) -> int:
    if text is None:
        return 0
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    if not 1 <= value <= LONGEST_REFERENCE or value & (value - 1):
        raise BadQuery(f"reference must be a power of two up to {LONGEST_REFERENCE}.")
    return value
