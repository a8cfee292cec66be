"""What is asked of a Prometheus: the user's expression, and whether its data are young.

``fill_in`` puts the revision in place of the placeholders. ``ask_for_young_data`` makes a second
expression from the metrics that the first one names: it has an answer only while at least one of
them has a sample of ``max_age`` or younger. It is needed because Prometheus stamps an answer with
the time of the question, so that the rate over the last half hour of a dead target looks fresh.
One of the metrics is enough: a counter of errors may rightly be absent until the first error.
``look_back`` says how much of the past an answer is made of. Pure; called by prometheus and
controller/prometheus_asking.
"""

from __future__ import annotations

import re
from typing import Final

# Labels in parentheses follow these.
_GROUPINGS: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS: Final = frozenset({"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"})
_MOST_METRICS: Final = 8

_UNITS: Final = {
    "": 1,
    "ms": 0.001,
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86400,
    "w": 604800,
    "y": 31536000,
}
# A number without a unit is seconds.
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdwy]|)")

_TOKEN: Final = re.compile(
    r"""
      (?P<skip>\s+|\#[^\n]*)
    | (?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
    | (?P<braces>\{(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`|[^}"'`])*\})
    | (?P<range>\[[^\]]*\])
    | (?P<number>(?:\d|\.\d)[\w.]*)
    | (?P<word>[A-Za-z_:][\w:]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def fill_in(query: str, *, revision: str, namespace: str, name: str) -> str:
    """The expression for one revision."""
    values = {"revision": revision, "namespace": namespace, "name": name}
    return re.sub(r"\{\{(revision|namespace|name)\}\}", lambda found: values[found.group(1)], query)


def find_metrics(query: str) -> tuple[str, ...]:
    """The metrics of an expression with their labels, as written: ``up{job="x"}``; each once."""
    tokens = [
        (match.lastgroup or "", match.group())
        for match in _TOKEN.finditer(query)
        if match.lastgroup != "skip"
    ]
    found: dict[str, None] = {}
    place = 0
    while place < len(tokens):
        kind, text = tokens[place]
        place += 1
        following = tokens[place] if place < len(tokens) else ("", "")
        if kind == "braces":
            found[text] = None
        elif kind == "word" and text.lower() in _GROUPINGS:
            place = _skip_labels(tokens, place)
        elif kind == "word" and text.lower() not in _WORDS and not _is_called(following):
            if following[0] == "braces":
                text += following[1]
                place += 1
            found[text] = None
    return tuple(found)


def look_back(query: str) -> float:
    """Seconds of the past that an answer is made of, no less than it really is: the longest range
    of the expression, such as the ``2m`` of ``rate(x[2m])``, and the ranges of all subqueries."""
    longest, around = 0.0, 0.0
    for match in _TOKEN.finditer(query):
        if match.lastgroup == "range":
            span, colon, _ = match.group().strip("[]").partition(":")
            seconds = sum(float(n) * _UNITS[unit] for n, unit in _SPAN.findall(span))
            if colon:
                around += seconds
            else:
                longest = max(longest, seconds)
    return longest + around


def ask_for_young_data(query: str, max_age: float) -> str | None:
    """max_age: seconds. None for an expression that names no metric."""
    span = f"{max(1000, round(max_age * 1000))}ms"
    metrics = find_metrics(query)[:_MOST_METRICS]
    return " or ".join(f"count(count_over_time({metric}[{span}]))" for metric in metrics) or None


def _is_called(following: tuple[str, str]) -> bool:
    """A function is followed by a parenthesis; an aggregation perhaps by its labels first."""
    kind, text = following
    return text == "(" or (kind == "word" and text.lower() in ("by", "without"))


def _skip_labels(tokens: list[tuple[str, str]], place: int) -> int:
    """Past the labels in parentheses that begin at ``place``, if they do."""
    if place >= len(tokens) or tokens[place][1] != "(":
        return place
    while place < len(tokens) and tokens[place][1] != ")":
        place += 1
    return place + 1
