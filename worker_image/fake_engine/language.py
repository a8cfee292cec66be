"""What the fake engine says: deterministic words, and a rough idea of tokens.

The same model, prompt and seed always give the same answer, as greedy decoding does; another model
answers with other words. One generated token is one word with a space in front.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence

DEFAULT_WORDS = [
    "amber",
    "bridge",
    "candle",
    "desert",
    "engine",
    "feather",
    "glacier",
    "hammer",
    "ivory",
    "jungle",
    "kettle",
    "lantern",
    "marble",
    "needle",
    "orbit",
    "pepper",
    "quartz",
    "river",
    "silver",
    "timber",
]
GARBAGE = ("\u00a4\u00a4", "%$#", "\u2592\u2592", "0x00", "}{", "~~", "\u00bf\u00bf", "||")
_PIECE = re.compile(r" ?\w+| ?[^\w\s]+|\s+")


def tokenize(text: str) -> list[int]:
    """One id for each word, run of marks or run of white space."""
    return [zlib.crc32(piece.encode()) % 50_000 + 3 for piece in _PIECE.findall(text)]


def pieces_of(text: str) -> list[str]:
    return _PIECE.findall(text)


def seed_of(*parts: object) -> int:
    """A number that is the same in every process (unlike `hash`)."""
    return zlib.crc32("\0".join(str(part) for part in parts).encode())


class Voice:
    """The vocabulary of one model."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = [" " + word for word in words]

    @property
    def words(self) -> list[str]:
        return self._words

    def say(self, seed: int, count: int, *, garbage: bool) -> list[str]:
        """`count` tokens."""
        source = random.Random(seed)  # noqa: S311 - words, not secrets
        return source.choices(GARBAGE if garbage else self._words, k=count)


def logprob_of(seed: int, index: int) -> float:
    """A plausible log probability of token `index`, between -2.5 and -0.1."""
    return -0.1 - (seed_of(seed, index) % 2400) / 1000


def cut_at_stop(tokens: Sequence[str], stops: Sequence[str]) -> tuple[int, str, str] | None:
    """Tokens used, text before the stop, the stop itself; None when no stop string occurs."""
    text = ""
    for count, token in enumerate(tokens, 1):
        text += token
        for stop in stops:
            found = text.find(stop)
            if found != -1:
                return count, text[:found], stop
    return None
