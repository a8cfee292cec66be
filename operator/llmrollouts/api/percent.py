"""Percentages that are no share: margins, error rates and budgets; decides nothing."""

from __future__ import annotations

import re
from typing import Final

# Also the pattern in the CRD. No sign: none of these may be negative.
PERCENT_PATTERN: Final = r"^[0-9]{1,3}(\.[0-9]{1,4})?%$"
_PERCENT = re.compile(PERCENT_PATTERN)


def parse_percent(text: str) -> float:
    """``0.2%`` as the fraction 0.002. Raises ValueError with a message for people."""
    if not _PERCENT.match(text):
        raise ValueError(
            f"{text!r} is no percentage: write a number that is not negative, with at most four "
            "decimals and the percent sign, such as 0.2% or 10%"
        )
    return float(text[:-1]) / 100
