"""What the tap notes of one request, from its arrival to its end.

The request has arrived when the engine's program has been given all of it, so that a client's slow
upload is not the engine's latency. It has ended when its answer has reached its proper end, not
when the connection closes.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from . import wire
from .events import Dialect, EventReader, WholeReader
from .outlet import Outlet

log = logging.getLogger("llmrollouts.tap")

Message = MutableMapping[str, Any]  # the ASGI specification's own type

_STREAM_WANTED = re.compile(rb'"stream"\s*:\s*true\b')
_OVERLAP = 64  # bytes of the part before, for a match across two parts
_SERVER_ERROR = 500
_CLIENT_ERROR = 400


class Watch:
    """One request. Every `see_` method may raise: the middleware then calls `give_up`."""

    __slots__ = (
        "_dialect",
        "_flags",
        "_number",
        "_outlet",
        "_reader",
        "_started",
        "_status",
        "_stream",
        "_upload_tail",
        "over",
        "take_usual",
    )

    def __init__(self, outlet: Outlet, number: int, dialect: Dialect, *, mirrored: bool) -> None:
        self._outlet = outlet
        self._number = number
        self._dialect = dialect
        self._flags = wire.MIRRORED if mirrored else 0
        self._started = False
        self._upload_tail = b""
        self._status = 0
        self._reader: WholeReader | None = None
        self._stream: EventReader | None = None
        self.over = False
        # Counts a message of a stream that needs no closer look; None outside a stream.
        self.take_usual: Callable[[Message], bool] | None = None

    # -- the request ----------------------------------------------------------------------------

    def see_request(self, message: Message) -> None:
        """One message that the engine's program received."""
        if message["type"] == "http.disconnect":
            self.leave()
        elif message["type"] == "http.request" and not self._started:
            part = self._upload_tail + message.get("body", b"")
            if not self._flags & wire.STREAMED and _STREAM_WANTED.search(part):
                self._flags |= wire.STREAMED
            self._upload_tail = part[-_OVERLAP:]
            if not message.get("more_body", False):
                self._start()

    def _start(self) -> None:
        self._started = True
        self._put(wire.START, self._flags, time.monotonic())

    # -- the answer -----------------------------------------------------------------------------

    def see_answer(self, message: Message) -> None:
        """One message that the engine's program is about to send."""
        if message["type"] == "http.response.body":
            part = message.get("body", b"")
            stream = self._stream
            if stream is not None:
                if part:
                    stream.feed(part)
                if stream.over or not message.get("more_body", False):
                    self._end_of_stream(stream)
                return
            if self._reader is not None and part:
                self._reader.feed(part)
            if not message.get("more_body", False):
                self._end_of_whole()
        elif message["type"] == "http.response.start":
            if not self._started:
                self._start()  # answered before the whole request was read
            self._status = int(message["status"])
            if self._status < _CLIENT_ERROR:
                if _is_event_stream(message.get("headers", ())):
                    self._stream = EventReader(self._dialect, self._mark)
                    self.take_usual = self._stream.take_usual
                else:
                    self._reader = WholeReader()

    def _mark(self, tokens: int, at: float) -> None:
        self._put(wire.TOKENS, 0, at, at, tokens)

    def _end_of_stream(self, stream: EventReader) -> None:
        if stream.error:
            how = wire.FAILED
        elif stream.seen == 0:
            how = wire.EMPTY
        elif stream.aborted or not stream.done:
            how = wire.TRUNCATED
        else:
            how = wire.OK
        self._end(how)

    def _end_of_whole(self) -> None:
        reader = self._reader
        if self._status >= _SERVER_ERROR or (reader is not None and reader.error):
            how = wire.FAILED
        elif reader is None:
            how = wire.REFUSED
        elif reader.tokens == 0:
            how = wire.EMPTY
        else:
            how = wire.TRUNCATED if reader.aborted else wire.OK
        self._end(how)

    # -- other ends -----------------------------------------------------------------------------

    def leave(self) -> None:
        """The client went away."""
        self._end(wire.LEFT)

    def break_off(self) -> None:
        """The engine's program stopped, by an error or by being told to, in mid-request."""
        self._end(wire.CUT if self._status else wire.FAILED)

    def give_up(self, error: Exception) -> None:
        """The tap itself failed on this request: nothing is said of it, and it goes on."""
        self.over = True
        log.warning("The tap lost sight of a request: %s: %s", type(error).__name__, error)
        self._put(wire.FORGET, 0, time.monotonic())
        self._let_go()

    def _end(self, how: int) -> None:
        if self.over:
            return
        self.over = True
        if not self._started:
            if how == wire.LEFT:
                return  # it never arrived
            self._start()
        now = time.monotonic()
        last, tokens = now, 0
        if self._stream is not None:
            tokens = self._stream.tokens
            last = self._stream.last_at if self._stream.seen else now
        elif self._reader is not None and how == wire.OK:
            tokens = self._reader.tokens
        self._put(wire.END, how, now, last, tokens)
        self._let_go()

    def _let_go(self) -> None:
        """Break the circle of watch and stream: the engine's garbage collector has enough to do."""
        self._stream = self._reader = self.take_usual = None

    def _put(self, what: int, detail: int, at: float, last: float = 0.0, tokens: int = 0) -> None:
        tokens = min(tokens, 0xFFFFFFFF)
        self._outlet.put(
            wire.RECORD.pack(what, detail, self._status, self._number, at, last, tokens)
        )


def _is_event_stream(headers: Any) -> bool:
    for name, value in headers:
        if name.lower() == b"content-type":
            return bool(value.startswith(b"text/event-stream"))
    return False
