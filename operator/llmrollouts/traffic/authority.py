"""Whether this replica may speak to the gateways, asked before each message.

The proxies listen to one leader. A replica that does not lead refuses them for as long as the
Lease says that somebody does; when nobody does, it serves the last committed routes with every
share 0, so that a gateway that restarts still finds its way to stable.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class Leadership(Protocol):
    """The elector, as far as the gateways are concerned."""

    def may_push(self) -> bool:
        """This replica leads and its Lease has not run out, by the monotonic clock."""

    def lease_is_fresh(self) -> bool:
        """Some replica leads, as far as this one can know."""


class Mode(Enum):
    LEADING = "leading"
    RESTRICTED = "restricted"
    REFUSING = "refusing"


class Authority:
    """Becomes able to answer when ``open`` says that every deployment is known: before that, an
    answer would take away the routes of all deployments that are not known yet."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._opened = False

    def open(self) -> None:
        self._opened = True

    def mode(self) -> Mode:
        if not self._opened:
            return Mode.REFUSING
        if self._leadership.may_push():
            return Mode.LEADING
        if self._leadership.lease_is_fresh():
            return Mode.REFUSING
        return Mode.RESTRICTED
