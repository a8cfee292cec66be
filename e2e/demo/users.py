"""The demo's users: the ordinary OpenAI client, changed in nothing but its base URL.

Run as a process of its own; writes the same lines as the counting client of the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import openai

from e2e.harness.client import REVISION_HEADER, STREAM_EVERY, Outcome


async def _ask(users: openai.AsyncOpenAI, number: int) -> Outcome:
    started = time.time()
    stream = number % STREAM_EVERY == 0
    revision: str | None = None
    tokens = 0
    try:
        if stream:
            async with users.chat.completions.with_streaming_response.create(
                model="chat",
                messages=[{"role": "user", "content": "hello world"}],
                max_tokens=8,
                stream=True,
            ) as answer:
                revision = answer.headers.get(REVISION_HEADER)
                done = False
                async for line in answer.iter_lines():
                    tokens += line.startswith("data: {")
                    done = done or line.startswith("data: [DONE]")
            outcome = "ok" if done else "cut"
            return Outcome(started, time.time(), revision, stream, outcome, 200, "")
        raw = await users.chat.completions.with_raw_response.create(
            model="chat", messages=[{"role": "user", "content": "hello world"}], max_tokens=8
        )
        revision = raw.headers.get(REVISION_HEADER)
        raw.parse()
    except (openai.OpenAIError, OSError) as error:
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        outcome = "cut" if tokens else "failed"
        detail = f"{type(error).__name__}: {error}"[:240]
        return Outcome(started, time.time(), revision, stream, outcome, status, detail)
    return Outcome(started, time.time(), revision, stream, "ok", 200, "")


async def _run(url: str, rate: float, out: TextIO) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    # No retries of the client's own: a failure must be seen.
    async with openai.AsyncOpenAI(
        base_url=url, api_key="none needed", max_retries=0, timeout=60
    ) as users:
        waiting: set[asyncio.Task[None]] = set()

        async def one(number: int) -> None:
            out.write(json.dumps(asdict(await _ask(users, number))) + "\n")
            out.flush()

        begin = time.monotonic()
        count = 0
        while not stopped.is_set():
            pause = begin + count / rate - time.monotonic()
            if pause > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopped.wait(), pause)
                continue
            task = asyncio.create_task(one(count))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            count += 1
        if waiting:
            await asyncio.wait(waiting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--out", required=True)
    chosen = parser.parse_args()
    with Path(chosen.out).open("w", encoding="utf-8") as out:
        asyncio.run(_run(chosen.url, chosen.rate, out))


if __name__ == "__main__":
    main()
