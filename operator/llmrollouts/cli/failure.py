"""How a command of ``kubectl llm`` ends when it does not succeed; raised by all of the CLI.

Exit codes: 0 done, 1 failed or refused, 2 wrong usage (click's own), 3 no answer in time.
"""

from __future__ import annotations

from typing import Final

FAILED: Final = 1
TIMED_OUT: Final = 3


class Failure(Exception):
    """Something a person must know. ``message`` says what is wrong, ``advice`` what to do."""

    exit_code = FAILED

    def __init__(self, message: str, *advice: str) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


class Missing(Failure):
    """404: the object, its namespace or its whole kind is not there."""


class Forbidden(Failure):
    """403: a permission is missing; the message names it."""


class Raced(Failure):
    """409: somebody else wrote first; the caller reads again."""


class LateAnswer(Failure):
    """The operator did not answer in time. What was asked may still happen."""

    exit_code = TIMED_OUT


class BadInput(Failure):
    """A file that was given cannot be used; the message names the place."""

    exit_code = 2
