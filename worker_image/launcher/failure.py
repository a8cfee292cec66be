"""Why the launcher gives up: exit codes and the error that carries one.

The code and the message end up in the pod's status (`kubectl describe pod`), so each message says
what is wrong and what to change. Raised by every module of the launcher, caught in `command`.
"""

from __future__ import annotations

BAD_CONFIGURATION = 64
CHECKSUM_MISMATCH = 65
MODEL_MISSING = 66
ENGINE_MISSING = 69
ENGINE_STOPPED_UNASKED = 70
START_TIMED_OUT = 75
KILLED_WHILE_STOPPING = 137


class Failure(Exception):
    """The launcher cannot go on; `code` becomes its exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def exit_code_of(wait_status: int) -> int:
    """The shell's view of a wait status: 0-255, or 128 + the signal that killed the process."""
    if wait_status & 0x7F:
        return 128 + (wait_status & 0x7F)
    return (wait_status >> 8) & 0xFF
