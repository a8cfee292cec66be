"""Hears the tap: takes its datagrams in, keeps the cohorts, knows what it missed.

One sampler for the launcher's life; `begin_life` at each start of the engine makes a new `boot`,
and what came before is forgotten. Nothing here may end the worker: without a socket the engine runs
without a tap, and the pages say so.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from .cohorts import Cohorts, Request
from .tap.llmrollouts_tap import wire

log = logging.getLogger("launcher")

HEARD_SECONDS = 10.0  # a process that was heard in this time counts as running
KNOWN_PROCESSES = 64
RECEIVE_BYTES = 65536
BURST = 256  # datagrams taken in before other work of the launcher gets its turn
_STREAM_FAILURES = (wire.CUT, wire.TRUNCATED, wire.FAILED)


@dataclass
class Process:
    """One API server process of the engine."""

    life: int
    pid: int
    next_record: int  # its sequence number
    heard: float
    last_at: float  # time of its latest record


class Sampler:
    """`clock`: monotonic seconds, the same clock as the engine's processes have."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._socket: socket.socket | None = None
        self.token = secrets.token_hex(16)
        self.begin_life()

    def begin_life(self) -> None:
        """The engine starts: all that is known of an earlier one is forgotten."""
        self.boot = secrets.token_hex(8)
        self.cohorts = Cohorts()
        self.heard = False
        self.lost = 0
        self.arrivals = {"live": 0, "mirrored": 0}
        self.others = 0  # requests of users that are not measured
        self.answer_lengths: Counter[int] = Counter()  # finished answers by log2 of their tokens
        self.ends: Counter[str] = Counter()
        self.cut_streams = 0
        self._processes: dict[int, Process] = {}

    def now(self) -> float:
        """Seconds of the worker's clock."""
        return self._clock()

    # -- the socket -----------------------------------------------------------------------------

    def open(self) -> dict[str, str] | None:
        """Listen; the variables that tell the tap where, or None when no socket may be had.

        The address is in Linux's abstract namespace: it needs no writable folder. Whoever shares
        the pod's network could send to it, so datagrams without the key are not taken.
        """
        name = f"@llmrollouts-tap-{secrets.token_hex(8)}"
        try:
            opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                opened.setblocking(False)
                opened.bind(wire.socket_address(name))
            except OSError:
                opened.close()
                raise
        except OSError as error:
            log.warning("The tap is off: no socket for it may be opened here: %s", error)
            return None
        self._socket = opened
        asyncio.get_running_loop().add_reader(opened.fileno(), self.receive)
        return {wire.ADDRESS_VARIABLE: name, wire.TOKEN_VARIABLE: self.token}

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def receive(self) -> None:
        """Take in what has arrived."""
        if self._socket is None:
            return
        for _ in range(BURST):
            try:
                datagram = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                log.warning("Could not read from the tap: %s", error)
                break
            self.take(datagram)

    # -- datagrams ------------------------------------------------------------------------------

    def take(self, datagram: bytes) -> None:
        """One datagram; what is not the tap's own is ignored."""
        if len(datagram) < wire.HEADER.size:
            return
        key, pid, life, sequence, count = wire.HEADER.unpack_from(datagram)
        body = memoryview(datagram)[wire.HEADER.size :]
        if key != wire.key_of(self.token) or len(body) != count * wire.RECORD.size:
            return
        process = self._hear(life, pid, sequence)
        if process is None:
            return
        process.next_record = sequence + count
        for record in wire.RECORD.iter_unpack(body):
            process.last_at = max(process.last_at, record[4])
            self._note(life, record)

    def _hear(self, life: int, pid: int, sequence: int) -> Process | None:
        """The process that speaks; None when it repeats itself."""
        self.heard = True
        process = self._processes.get(life)
        if process is None:
            if len(self._processes) >= KNOWN_PROCESSES:
                silent = min(self._processes.values(), key=lambda one: one.heard)
                del self._processes[silent.life]
            process = Process(life, pid, 0, 0.0, 0.0)
            self._processes[life] = process
        process.heard = self._clock()
        missing = sequence - process.next_record
        if missing < 0:
            return None
        if missing > 0:
            self.lost += missing
            self.cohorts.lose_sight(life, process.last_at)
            log.warning("Lost %d records of process %d of the engine", missing, pid)
        return process

    def _note(self, life: int, record: tuple[int, int, int, int, float, float, int]) -> None:
        what, detail, _status, number, at, last, tokens = record
        if what == wire.ALIVE:
            return
        if what == wire.OTHER:
            self.others += 1
            return
        key = (life, number)
        if what == wire.START:
            mirrored = bool(detail & wire.MIRRORED)
            self.arrivals["mirrored" if mirrored else "live"] += 1
            streamed = bool(detail & wire.STREAMED)
            self.cohorts.start(Request(key, at, streamed=streamed, mirrored=mirrored))
            return
        request = self.cohorts.find(key)
        if request is None:
            return  # its start was lost, or it is older than anything that is kept
        age = max(0.0, at - request.arrived)
        if what == wire.TOKENS:
            request.streamed = True
            request.marks.append(age)
        elif what == wire.END:
            request.end, request.end_age, request.tokens = detail, age, tokens
            request.last_age = max(0.0, last - request.arrived)
            self.cohorts.end(request)
            self._count_end(request)
        elif what == wire.FORGET:
            request.blind = age
            self.cohorts.end(request)

    def _count_end(self, request: Request) -> None:
        self.ends[wire.ENDS.get(request.end, "unknown")] += 1
        if request.end == wire.OK and request.tokens > 0:
            self.answer_lengths[request.tokens.bit_length() - 1] += 1
        if request.end in _STREAM_FAILURES and request.marks and not request.mirrored:
            self.cut_streams += 1

    @property
    def processes(self) -> int:
        """API server processes that were heard of late."""
        since = self._clock() - HEARD_SECONDS
        return sum(1 for process in self._processes.values() if process.heard >= since)
