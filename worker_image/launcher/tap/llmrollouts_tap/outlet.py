"""Sends records to the launcher without ever making a request wait.

Records are gathered for a twentieth of a second: a datagram for each would cost more, and the
kernel queues only ten datagrams for a reader that is busy (net.unix.max_dgram_qlen). While the
launcher does not read, records wait here, up to a bound; then the oldest are given up, and the
launcher sees from the sequence numbers how many. Times are in the records, so waiting changes no
measurement.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Mapping
from itertools import islice

from .wire import (
    ADDRESS_VARIABLE,
    HEADER,
    RECORDS_IN_DATAGRAM,
    TOKEN_VARIABLE,
    key_of,
    socket_address,
)

log = logging.getLogger("llmrollouts.tap")

GATHER_SECONDS = 0.05
RETRY_SECONDS = 0.02
KEPT_RECORDS = 16384  # half a megabyte
_FULL = (errno.EAGAIN, errno.ENOBUFS)


class Outlet:
    """One process's way to the launcher; used on one event loop only."""

    def __init__(self, sender: socket.socket, key: bytes) -> None:
        self._socket = sender
        self._head = (key, os.getpid(), int.from_bytes(os.urandom(4), "little"))
        self._records: deque[bytes] = deque()
        self._sequence = 0  # of the oldest record that is kept
        self._scheduled = False
        self._closed = False

    def put(self, record: bytes) -> None:
        """Keep one record for the next datagram; needs a running event loop."""
        if self._closed:
            return
        if len(self._records) >= KEPT_RECORDS:
            self._records.popleft()
            self._sequence += 1
        self._records.append(record)
        if not self._scheduled:
            self._schedule(GATHER_SECONDS)

    def _schedule(self, seconds: float) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_later(seconds, self.flush)

    def flush(self) -> None:
        """Send what is there; comes back by itself when the launcher's queue is full."""
        self._scheduled = False
        records = self._records
        while records:
            count = min(len(records), RECORDS_IN_DATAGRAM)
            head = HEADER.pack(*self._head, self._sequence, count)
            try:
                self._socket.send(head + b"".join(islice(records, count)))
            except OSError as error:
                if error.errno in _FULL:
                    self._schedule(RETRY_SECONDS)
                else:
                    self._give_up(error)
                return
            for _ in range(count):
                records.popleft()
            self._sequence += count

    def close(self) -> None:
        """Say nothing more; what was not sent is forgotten."""
        self._closed = True
        self._records.clear()
        self._socket.close()

    def _give_up(self, error: OSError) -> None:
        """The launcher's end is gone, and with it this worker's life."""
        self.close()
        log.warning("Stopped reporting to the launcher: %s", error)


def open_outlet(environment: Mapping[str, str]) -> tuple[Outlet | None, bytes]:
    """The outlet and the token of the launcher's own requests.

    None when there is no launcher, or no socket may be had here: the engine then serves as if
    there were no tap, and the launcher says in its pages that it hears none.
    """
    name, token = environment.get(ADDRESS_VARIABLE, ""), environment.get(TOKEN_VARIABLE, "")
    if not name or not token:
        log.warning("The tap is off: no launcher told it where to report")
        return None, b""
    try:
        key = key_of(token)
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sender.setblocking(False)
            sender.connect(socket_address(name))
        except OSError:
            sender.close()
            raise
    except (OSError, ValueError) as error:
        log.warning("The tap is off: cannot reach the launcher: %s", error)
        return None, b""
    return Outlet(sender, key), token.encode("ascii")
