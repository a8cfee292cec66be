"""The texts, times and lists of a status, each cut to its bound when a value is made.

So a long message can never make a status unwritable. Decides nothing; used by a status's parts.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AwareDatetime, BeforeValidator

from llmrollouts.api.rules import Schema

MESSAGE_LENGTH: Final = 1024
NAME_LENGTH: Final = 253
HISTORY_ENTRIES: Final = 20
LIST_ENTRIES: Final = 64
GATE_ENTRIES: Final = 32
METRIC_ENTRIES: Final = 24
NUMBER_LENGTH: Final = 32


def _cut(length: int) -> BeforeValidator:
    def cut(value: Any) -> Any:
        if isinstance(value, str) and len(value) > length:
            return value[: length - 1] + "…"
        return value

    return BeforeValidator(cut)


def _keep_last(count: int) -> BeforeValidator:
    def keep(value: Any) -> Any:
        return value[-count:] if isinstance(value, list | tuple) else value

    return BeforeValidator(keep)


def _is_near(value: datetime) -> datetime:
    """Arithmetic on a time of the year 9999 overflows, and only a person can have written it."""
    if not 2000 <= value.year < 2200:
        raise ValueError("a time of this status lies between the years 2000 and 2200")
    return value


# With a zone always: one without cannot be compared with the others.
Time = Annotated[AwareDatetime, AfterValidator(_is_near)]
MessageText = Annotated[str, _cut(MESSAGE_LENGTH), Schema((("maxLength", MESSAGE_LENGTH),))]
NameText = Annotated[str, _cut(NAME_LENGTH), Schema((("maxLength", NAME_LENGTH),))]
NumberText = Annotated[str, _cut(NUMBER_LENGTH), Schema((("maxLength", NUMBER_LENGTH),))]
LAST_GATES = (_keep_last(GATE_ENTRIES), Schema((("maxItems", GATE_ENTRIES),)))
LAST_METRICS = (_keep_last(METRIC_ENTRIES), Schema((("maxItems", METRIC_ENTRIES),)))
LAST_HISTORY = (_keep_last(HISTORY_ENTRIES), Schema((("maxItems", HISTORY_ENTRIES),)))
LAST_ENTRIES = (_keep_last(LIST_ENTRIES), Schema((("maxItems", LIST_ENTRIES),)))
