"""A share of user requests, exact to one part in a million.

Written by people as a decimal percentage (``0.5%``), kept as a whole number of parts per million
so that no rounding happens between the spec, the status and the proxies (Envoy's own fractions
have a denominator of one million). Used by every layer; decides nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

PARTS_PER_PERCENT: Final = 10_000
WHOLE: Final = 100 * PARTS_PER_PERCENT

# Also the pattern in the CRD, so that the API server and this parser accept the same texts.
SHARE_PATTERN: Final = r"^(100(\.0{1,4})?|[0-9]{1,2}(\.[0-9]{1,4})?)%$"
_SHARE = re.compile(SHARE_PATTERN)


@dataclass(frozen=True, order=True, slots=True)
class Share:
    """``ppm`` parts per million of the user requests, 0 to 1,000,000."""

    ppm: int

    def __post_init__(self) -> None:
        if not 0 <= self.ppm <= WHOLE:
            raise ValueError(f"a share lies between 0% and 100%, not {self.ppm} parts per million")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``0.5%``. Raises ValueError with a message for people on anything else."""
        if not _SHARE.match(text):
            raise ValueError(
                f"{text!r} is no share: write a percentage from 0% to 100% with at most four "
                "decimals and the percent sign, such as 0.5%"
            )
        whole, _, decimals = text[:-1].partition(".")
        return cls(int(whole) * PARTS_PER_PERCENT + int(decimals.ljust(4, "0")))

    @property
    def fraction(self) -> float:
        """The share as a number from 0 to 1."""
        return self.ppm / WHOLE

    def __bool__(self) -> bool:
        return self.ppm > 0

    def __str__(self) -> str:
        whole, rest = divmod(self.ppm, PARTS_PER_PERCENT)
        decimals = f"{rest:04d}".rstrip("0")
        return f"{whole}.{decimals}%" if decimals else f"{whole}%"


NONE: Final = Share(0)
ALL: Final = Share(WHOLE)
