"""Kubernetes duration strings (``1h30m``, ``500ms``) to and from seconds; decides nothing."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

# Also the pattern in the CRD. Days are absent on purpose: Kubernetes durations end at hours.
DURATION_PATTERN: Final = r"^([0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h)){1,4}$"
_DURATION = re.compile(DURATION_PATTERN)
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Seconds in ``text``. Raises ValueError with a message for people on anything else."""
    if not _DURATION.match(text):
        raise ValueError(f"{text!r} is no duration: write for example 30m, 1h30m or 500ms")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def format_duration(seconds: float) -> str:
    """The shortest usual text: ``90`` -> ``1m30s``; below one second in milliseconds."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    total = round(milliseconds / 1000)
    hours, rest = divmod(total, 3600)
    minutes, remaining = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (remaining, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number)
