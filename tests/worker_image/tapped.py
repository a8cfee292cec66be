"""A tap with a sampler that hears it, and what vLLM's programs say to it, for the tap's tests.

Messages pass through the real class and over a real socket; only the program is made up. It decides
nothing about what is right: the tests do. `tapped` in conftest.py makes the pair.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from worker_image.launcher.cohorts import Request
from worker_image.launcher.sampler import Sampler
from worker_image.launcher.tap.llmrollouts_tap import Tap

Message = MutableMapping[str, Any]
Step = bytes | Callable[[], Awaitable[None]]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
EVENT_STREAM = b"text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
STREAMED = b'{"model":"chat","stream": true}'


def event(content: object, name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def chat(index: int = 0, finish: str | None = None, **delta: object) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event({"id": "chatcmpl-1", "model": "chat", "choices": [choice]})


def completion(text: str, index: int = 0, finish: str | None = None) -> bytes:
    choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
    return event({"id": "cmpl-1", "model": "chat", "choices": [choice]})


def usage(tokens: int) -> bytes:
    used = {"prompt_tokens": 3, "total_tokens": 3 + tokens, "completion_tokens": tokens}
    return event({"id": "cmpl-1", "choices": [], "usage": used})


TOOL = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "f", "arguments": ""}}
ROLE = chat(role="assistant", content="")


class Client:
    """The server's side of one request: gives the body, keeps the answer, may go away."""

    def __init__(self, body: Sequence[bytes]) -> None:
        self._body = list(body)
        self.gone = asyncio.Event()
        self.answered: list[Message] = []

    async def receive(self) -> Message:
        if self._body:
            part = self._body.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._body)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.answered.append(message)


async def run_program(scope: Any, receive: Any, send: Any) -> None:
    await scope["program"](scope, receive, send)


class Tapped:
    """A tap, around a program that each request brings along, and the sampler that hears it."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.tap = Tap(run_program)

    def close(self) -> None:
        self.sampler.close()
        if self.tap.outlet is not None:
            self.tap.outlet.close()

    async def play(
        self,
        *steps: Step,
        path: str = CHAT,
        body: Sequence[bytes] = (STREAMED,),
        status: int = 200,
        content_type: bytes = EVENT_STREAM,
        headers: Sequence[tuple[bytes, bytes]] = (),
        finish: bool = True,
        method: str = "POST",
    ) -> Client:
        """One request to a program that answers with these parts and does these things."""
        client = Client(body)

        async def program(scope: Any, receive: Any, send: Any) -> None:
            while (await receive()).get("more_body"):
                continue
            started: Message = {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"Content-Type", content_type)],
            }
            if steps and isinstance(steps[0], bytes):
                await send(started)
            for step in steps:
                if isinstance(step, bytes):
                    await send({"type": "http.response.body", "body": step, "more_body": True})
                else:
                    await step()
            if finish:
                if not steps:
                    await send(started)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await receive()

        await self.run(program, client, path, headers, method)
        return client

    async def run(
        self,
        program: Any,
        client: Client,
        path: str = CHAT,
        headers: Sequence[tuple[bytes, bytes]] = (),
        method: str = "POST",
    ) -> None:
        scope = {"type": "http", "path": path, "method": method, "headers": list(headers)}
        await self.tap({**scope, "program": program}, client.receive, client.send)

    async def heard(self) -> dict[str, int]:
        """How requests ended until now, by name, without zeros."""
        await asyncio.sleep(0.12)
        self.sampler.receive()
        return dict(self.sampler.ends)

    async def requests(self) -> list[tuple[int, list[Request]]]:
        await self.heard()
        return self.sampler.cohorts.between(0, 1 << 40)

    async def lengths(self) -> dict[int, int]:
        await self.heard()
        return dict(self.sampler.answer_lengths)
