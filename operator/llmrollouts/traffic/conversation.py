"""One stream of a gateway, from its first request to its end, whoever ends it.

What both services have in common: a replica that may not speak refuses at once, a gateway that
says nothing or nonsense is told so, and a stream that this side ends (another one took its place,
leadership is lost) ends for the gateway as "ask another replica". Decides nothing about content.
Called by ads and lrs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

import grpc

from llmrollouts.traffic.authority import Authority, Mode

log = logging.getLogger(__name__)

_FIRST_REQUEST_WITHIN: Final = 10.0
_REFUSED: Final = "this replica does not lead; another one serves the gateways"


class RefusedError(Exception):
    """This replica may not speak to gateways now."""


async def read_first(context: Any) -> bytes | None:
    """The first request of a stream; None when it ended without one. Raises TimeoutError."""
    async with asyncio.timeout(_FIRST_REQUEST_WITHIN):
        data = await context.read()
    return None if data is grpc.aio.EOF else bytes(data)


async def hold(
    context: Any,
    authority: Authority,
    converse: Callable[[Any], Coroutine[Any, Any, None]],
    what: str,
) -> None:
    """Run ``converse(context)`` as a task of its own and tell the gateway how it ended.

    The task may be cancelled by whoever ends the stream. ``what``: of the stream, for messages.
    converse raises RefusedError, TimeoutError (nothing came) and ValueError (it was nonsense).
    """
    if authority.mode() is Mode.REFUSING:
        await context.abort(grpc.StatusCode.UNAVAILABLE, _REFUSED)
    talk = asyncio.current_task()
    assert talk is not None  # noqa: S101 - grpc runs handlers in tasks
    inner = asyncio.create_task(converse(context))
    try:
        await inner
    except RefusedError:
        await context.abort(grpc.StatusCode.UNAVAILABLE, _REFUSED)
    except asyncio.CancelledError:
        if talk.cancelling():
            inner.cancel()
            raise
        await context.abort(grpc.StatusCode.UNAVAILABLE, _REFUSED)
    except TimeoutError:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no {what} came")
    except ValueError as error:
        log.warning("Refused a gateway's stream", extra={"stream": what, "reason": str(error)})
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
