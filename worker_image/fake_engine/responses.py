"""`/v1/responses` as far as tests need it: one text in, one text out, streamed or whole.

A request becomes that of a completion (`completion_body`), so that checks, faults and speed are the
same; the answer's events are vLLM's, in its order. No tools, no stored responses, no reasoning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from .answers import EVENT_STREAM, Json, encode
from .engine import Choice, Fate
from .exchange import ConnectionCut, Exchange
from .protocol import ApiError


def completion_body(body: Mapping[str, object]) -> dict[str, object]:
    """The completion that a request for a response asks for; ApiError as vLLM's."""
    given = body.get("input")
    if isinstance(given, list):
        lines = [_text_of(item) for item in given]
        prompt = "\n".join(line for line in lines if line)
    else:
        prompt = given if isinstance(given, str) else ""
    if not prompt:
        raise ApiError(400, "input must be a text or a list of messages", "Bad Request", "input")
    passed = ("model", "stream", "temperature", "top_p", "seed", "ignore_eos")
    made = {name: body[name] for name in passed if name in body}
    made["prompt"] = prompt
    if body.get("max_output_tokens") is not None:
        made["max_tokens"] = body["max_output_tokens"]
    return made


def _text_of(message: object) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


class Response:
    """One response: its parts as JSON, its events as bytes, numbered as they are made."""

    def __init__(
        self, *, number: int, created: int, model: str, prompt_tokens: int, max_tokens: int
    ) -> None:
        self._id = f"resp_{number:016x}"
        self._item_id = f"msg_{number:016x}"
        self._created = created
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._max_tokens = max_tokens
        self._sequence = 0

    def whole(self, text: str, tokens: int, finish_reason: str) -> Json:
        cut = finish_reason == "length"
        return {
            **self._head("incomplete" if cut else "completed"),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._item(text)],
            "usage": {
                "input_tokens": self._prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self._prompt_tokens + tokens,
            },
        }

    def opening(self) -> bytes:
        """Everything before the first token."""
        begun = {**self._head("in_progress"), "output": [], "usage": None}
        item = {**self._item(""), "content": [], "status": "in_progress"}
        return (
            self._event("response.created", response=begun)
            + self._event("response.in_progress", response=begun)
            + self._event("response.output_item.added", item=item, output_index=0)
            + self._event("response.content_part.added", **self._place(), part=_part(""))
        )

    def delta(self, text: str) -> bytes:
        return self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def closing(self, text: str, tokens: int, finish_reason: str) -> bytes:
        """Everything after the last token."""
        return (
            self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
            + self._event("response.content_part.done", **self._place(), part=_part(text))
            + self._event("response.output_item.done", item=self._item(text), output_index=0)
            + self._event("response.completed", response=self.whole(text, tokens, finish_reason))
        )

    def error(self, message: str) -> bytes:
        return self._event("error", code="server_error", message=message, param=None)

    def _head(self, status: str) -> Json:
        return {
            "id": self._id,
            "created_at": self._created,
            "model": self._model,
            "object": "response",
            "max_output_tokens": self._max_tokens,
            "status": status,
        }

    def _item(self, text: str) -> Json:
        return {
            "id": self._item_id,
            "content": [_part(text)],
            "role": "assistant",
            "status": "completed",
            "type": "message",
        }

    def _place(self) -> Json:
        return {"content_index": 0, "item_id": self._item_id, "output_index": 0}

    def _event(self, kind: str, **fields: object) -> bytes:
        content = {**fields, "sequence_number": self._sequence, "type": kind}
        self._sequence += 1
        return f"event: {kind}\ndata: ".encode() + encode(content) + b"\n\n"


def _part(text: str) -> Json:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}


async def answer_response(
    exchange: Exchange, watcher: asyncio.Future[None], choice: Choice, response: Response
) -> None:
    """The whole answer once it is there; nothing when the client has left (`watcher`)."""
    if await choice.ends_before(watcher):
        generated = choice.generation.generated
        text = choice.text_between(0, generated)
        content = response.whole(text, generated, choice.finish_reason)
        await exchange.answer_json(200, content)


async def stream_response(
    exchange: Exchange,
    watcher: asyncio.Future[None],
    fate: Fate,
    choice: Choice,
    response: Response,
) -> None:
    """The events as their tokens come, until the end, the client's leaving or what fate brings."""
    generation = choice.generation
    await exchange.start(200, EVENT_STREAM, [])
    await exchange.send_part(response.opening())
    sent = 0
    while not generation.finished or sent < generation.generated:
        await generation.changed.wait()
        generation.changed.clear()
        if watcher.done():
            return
        if generation.generated > sent:
            text = choice.text_between(sent, generation.generated)
            sent = generation.generated
            await exchange.send_part(response.delta(text))
            if fate.cut:
                raise ConnectionCut("cut on purpose")
            if fate.stream_error:
                await exchange.send_part(response.error("failed in mid-stream on purpose"))
                await exchange.finish()
                return
    text = choice.text_between(0, sent)
    await exchange.send_part(response.closing(text, sent, choice.finish_reason))
    await exchange.finish()
