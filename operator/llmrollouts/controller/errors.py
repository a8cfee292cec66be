"""The shell's own errors, named by who is at fault; the API server's are in kube/port.

Raised by observe and act, sorted by reconcile. Decides nothing.
"""

from __future__ import annotations


class TerminalError(Exception):
    """The user's object cannot be used until a person changes it: a condition, no retry."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotLeading(Exception):
    """This process does not lead (any more), or a later leader has written: nothing may be
    written or programmed. Ends the process."""
