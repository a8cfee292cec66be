"""A client that counts every request: an open-loop load on one OpenAI endpoint.

Run as its own process (``python -m e2e.harness.client``), so that a busy test never slows it.
Requests start at a steady rate whether or not earlier ones have ended; every third is streamed.
Each finished request becomes one JSON line: when it started and ended (seconds of the wall
clock), which revision answered, and how it ended. SIGTERM ends the load and waits for the open
requests; a request that never ends is a line as well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import aiohttp

REVISION_HEADER = "x-llmrollouts-revision"
STREAM_EVERY = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request as its user saw it.

    outcome: ``ok``; ``failed`` (no token reached the user); ``cut`` (broken off after it had begun:
    a stream after its first token, a whole answer after its header, which nobody can take back).
    detail: why, for a person.
    """

    started: float
    ended: float
    revision: str | None
    stream: bool
    outcome: str
    status: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: ``rate`` requests/s for ``seconds`` (or until ``requests`` were sent); one of
    ``stream_every`` is streamed."""

    url: str
    model: str
    rate: float
    seconds: float
    requests: int
    max_tokens: int
    pin: str | None = None
    stream_every: int = STREAM_EVERY


async def _request(session: aiohttp.ClientSession, load: Load, number: int) -> Outcome:
    started = time.time()
    stream = number % load.stream_every == 0
    revision: str | None = None
    status: int | None = None
    tokens = 0
    body = {
        "model": load.model,
        "messages": [{"role": "user", "content": f"Request {number}: hello world"}],
        "max_tokens": load.max_tokens,
        "stream": stream,
    }
    headers = {REVISION_HEADER: load.pin} if load.pin else {}
    try:
        async with session.post(
            f"{load.url}/chat/completions", json=body, headers=headers
        ) as answer:
            status = answer.status
            revision = answer.headers.get(REVISION_HEADER)
            if stream and status == 200:
                done = False
                async for line in answer.content:
                    if not line.startswith(b"data: "):
                        continue
                    if line.startswith(b"data: [DONE]"):
                        done = True
                    elif b'"error"' in line:
                        raise aiohttp.ClientPayloadError(line.decode(errors="replace")[:200])
                    else:
                        tokens += 1
                ended = "ok" if done else "cut"
                detail = "" if done else f"the stream ended after {tokens} chunks"
            else:
                text = await answer.text()
                ended = "ok" if status == 200 and '"choices"' in text else "failed"
                detail = "" if ended == "ok" else f"HTTP {status}: {text[:200]}"
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        begun = tokens > 0 if stream else status == 200
        ended = "cut" if begun else "failed"
        detail = f"{type(error).__name__}: {error}"[:240]
    return Outcome(started, time.time(), revision, stream, ended, status, detail)


async def _send_all(load: Load, record: Callable[[Outcome], None], stopped: asyncio.Event) -> None:
    open_requests: set[asyncio.Task[None]] = set()
    timeout = aiohttp.ClientTimeout(total=120, connect=10)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def one(number: int) -> None:
            record(await _request(session, load, number))

        begin = time.monotonic()
        number = 0
        while not stopped.is_set():
            due = begin + number / load.rate
            now = time.monotonic()
            if now - begin >= load.seconds or (load.requests and number >= load.requests):
                break
            if due > now:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopped.wait(), due - now)
                continue
            task = asyncio.create_task(one(number))
            open_requests.add(task)
            task.add_done_callback(open_requests.discard)
            number += 1
        if open_requests:
            await asyncio.wait(open_requests)


async def _run(load: Load, out: TextIO) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    def record(outcome: Outcome) -> None:
        out.write(json.dumps(asdict(outcome)) + "\n")

    async def flush() -> None:
        while True:
            await asyncio.sleep(0.25)
            out.flush()

    flusher = asyncio.create_task(flush())
    await _send_all(load, record, stopped)
    flusher.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="base URL, ending in /v1")
    parser.add_argument("--model", default="chat")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=3600.0, help="end after so long")
    parser.add_argument("--requests", type=int, default=0, help="end after so many; 0: no limit")
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--pin", default=None, help="pin every request to this revision")
    parser.add_argument("--stream-every", type=int, default=STREAM_EVERY, help="stream one of N")
    parser.add_argument("--out", required=True, help="file for the outcomes, one JSON a line")
    chosen = parser.parse_args()
    load = Load(
        chosen.url,
        chosen.model,
        chosen.rate,
        chosen.seconds,
        chosen.requests,
        chosen.max_tokens,
        chosen.pin,
        chosen.stream_every,
    )
    with Path(chosen.out).open("w", encoding="utf-8") as out:
        asyncio.run(_run(load, out))
    sys.exit(0)


if __name__ == "__main__":
    main()
