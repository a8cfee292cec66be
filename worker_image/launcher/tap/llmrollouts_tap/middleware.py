"""The ASGI middleware class that vLLM wraps around its program.

It passes every message on, unchanged and at once; what it notes on the way is in `watch`. A class,
because vLLM turns a function into a middleware that buffers. Several may live in one worker, one in
each API server process.
"""

from __future__ import annotations

import hmac
import itertools
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from . import wire
from .events import DIALECTS
from .outlet import open_outlet
from .watch import Message, Watch

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Pages that the launcher asks for all the time: by its token in them it hears that the tap lives.
ASKED_BY_LAUNCHER = ("/load", "/health")
# Whatever a gateway sends comes here; the engine's own pages, which monitoring reads, do not.
USERS_PATHS = "/v1/"
# How uvicorn and Starlette say that nobody is there any more to send to.
CLIENT_GONE = ("ClientDisconnect", "ClientDisconnected")
_REQUESTS = 1 << 32


class Tap:
    """`--middleware llmrollouts_tap.Tap`."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self.outlet, self._token = open_outlet(os.environ)
        self._numbers = itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = self._watch(scope)
        if watch is None:
            await self._app(scope, receive, send)
            return

        async def tapped_receive() -> Message:
            message = await receive()
            if not watch.over:
                try:
                    watch.see_request(message)
                except Exception as error:  # noqa: BLE001 - no fault of the tap may reach a request
                    watch.give_up(error)
            return message

        # Not a coroutine of its own: one for each token would cost more than all the rest.
        def tapped_send(message: Message) -> Awaitable[None]:
            if not watch.over:
                try:
                    take_usual = watch.take_usual
                    if take_usual is None or not take_usual(message):
                        watch.see_answer(message)
                except Exception as error:  # noqa: BLE001 - no fault of the tap may reach a request
                    watch.give_up(error)
            return send(message)

        try:
            await self._app(scope, tapped_receive, tapped_send)
        except Exception as error:
            if isinstance(error, ConnectionError) or type(error).__name__ in CLIENT_GONE:
                watch.leave()
            raise
        finally:
            # After its proper end, or the client's leaving, this changes nothing.
            watch.break_off()

    def _watch(self, scope: Scope) -> Watch | None:
        """The watch of a user's request; None for everything else."""
        outlet = self.outlet
        if outlet is None or scope["type"] != "http":
            return None
        path = scope["path"]
        dialect = DIALECTS.get(path)
        from_users = path.startswith(USERS_PATHS)
        if dialect is None and not from_users and path not in ASKED_BY_LAUNCHER:
            return None
        mirrored = False
        for name, value in scope["headers"]:
            if name == wire.PROBE_HEADER and hmac.compare_digest(value, self._token):
                outlet.put(wire.RECORD.pack(wire.ALIVE, 0, 0, 0, time.monotonic(), 0.0, 0))
                return None
            if name == wire.MIRRORED_HEADER:
                mirrored = True
        if dialect is None or scope["method"] != "POST":
            if from_users:
                outlet.put(wire.RECORD.pack(wire.OTHER, 0, 0, 0, time.monotonic(), 0.0, 0))
            return None
        return Watch(outlet, next(self._numbers) % _REQUESTS, dialect, mirrored=mirrored)
