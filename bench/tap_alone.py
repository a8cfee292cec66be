"""The tap around a program that does nothing else, on one core: what the tap itself takes.

No engine and no HTTP, so that the noise of neither is in it; the datagrams are sent and read.
bench.tap_cost calls it and compares its numbers with an engine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import threading
import time
from typing import Any

from worker_image.launcher.tap.llmrollouts_tap import Tap
from worker_image.launcher.tap.llmrollouts_tap.outlet import GATHER_SECONDS
from worker_image.launcher.tap.llmrollouts_tap.wire import (
    ADDRESS_VARIABLE,
    TOKEN_VARIABLE,
    socket_address,
)

CHUNK = (
    b'data: {"id":"cmpl-b598222b032b27ed","object":"text_completion","created":1795396278,"model":'
    b'"chat","choices":[{"index":0,"text":" barley","logprobs":null,"finish_reason":null,'
    b'"stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null}]}\n\n'
)


async def _idle_program(scope: Any, receive: Any, send: Any) -> None:
    """Streams CHUNK as many times as the scope says, and does nothing else."""
    await receive()
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(scope["tokens"]):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def measure_alone(repeats: int = 15, requests: int = 200) -> dict[str, Any]:
    """Microseconds of processor time of one thread, sending the datagrams included."""
    address = f"@llmrollouts-bench-{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(socket_address(address))
    stopped = threading.Event()

    def listen() -> None:
        listener.settimeout(0.1)
        while not stopped.is_set():
            with contextlib.suppress(TimeoutError):
                listener.recv(65536)

    listening = threading.Thread(target=listen)
    listening.start()
    os.environ[ADDRESS_VARIABLE], os.environ[TOKEN_VARIABLE] = address, "00" * 16
    tap = Tap(_idle_program)
    scope = {
        "type": "http",
        "path": "/v1/completions",
        "method": "POST",
        "headers": [(b"host", b"x"), (b"accept", b"*/*"), (b"content-type", b"application/json")],
    }

    async def receive() -> dict[str, Any]:
        body = b'{"model": "chat", "prompt": "hello", "stream": true}'
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_message: Any) -> None:
        return

    async def once(program: Any, tokens: int) -> float:
        began = time.thread_time()
        for _ in range(requests):
            await program({**scope, "tokens": tokens}, receive, send)
        await asyncio.sleep(GATHER_SECONDS * 2)
        return (time.thread_time() - began) / requests * 1e6

    added: dict[int, list[float]] = {1: [], 257: []}
    for _ in range(repeats):
        for tokens, values in added.items():
            values.append(await once(tap, tokens) - await once(_idle_program, tokens))
    stopped.set()
    listening.join()
    listener.close()
    if tap.outlet is not None:
        tap.outlet.close()
    first, long = (statistics.median(values) for values in added.values())
    return {
        "microseconds_per_request": round(first, 2),
        "microseconds_per_further_token": round((long - first) / 256, 3),
        "raw_microseconds": {str(n): [round(x, 2) for x in v] for n, v in added.items()},
    }
