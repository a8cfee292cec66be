"""How the operator logs: one line an event, for machines (json) or for people (text).

Messages begin with a capital letter and tell in the past tense what happened; names and numbers
are key-values. Decides nothing. Called by controller/main.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, Literal

from pythonjsonlogger.json import JsonFormatter

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# These tell each request or each event at INFO; ours tell what follows from it.
_CHATTY: Final = ("kopf", "aiohttp.access", "kubernetes", "asyncio")


class TextFormatter(logging.Formatter):
    """``time LEVEL logger Message  key=value``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s  %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        extras = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        told = record.getMessage()
        if extras:
            told += "  " + " ".join(f"{key}={value}" for key, value in extras.items())
        plain = logging.makeLogRecord({**vars(record), "msg": told, "args": None})
        for key in extras:
            vars(plain).pop(key, None)
        return super().format(plain)


def set_up_logs(form: Literal["json", "text"], level: str) -> None:
    """Send all logs to standard error in the form asked for."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(
            JsonFormatter(
                "{levelname}{name}{message}",
                style="{",
                timestamp=True,
                rename_fields={"levelname": "level", "name": "logger"},
            )
        )
    else:
        handler.setFormatter(TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
