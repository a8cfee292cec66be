"""`/v1/messages` (the form of Anthropic's API) as far as tests need it: text in, text out.

A request becomes that of a chat (`chat_body`), as in vLLM, so that checks, faults and speed are the
same; the answer's events are vLLM's, in its order, as recorded from 0.32.0. What a stream says of
an error in its middle is not recorded: it follows vLLM's source. No tools, no images, no thinking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from .answers import EVENT_STREAM, Json, encode
from .engine import Choice, Fate
from .exchange import ConnectionCut, Exchange
from .protocol import ApiError, invalid, read_integer

_ROLES = ("user", "assistant", "system")
# How the end of a chat's answer is called here; an aborted one has no name.
_STOP_REASONS = {"length": "max_tokens", "stop": "end_turn"}


def chat_body(body: Mapping[str, object]) -> dict[str, object]:
    """The chat that a request for a message asks for; ApiError for what is none."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("body.model", "model is required")
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise invalid("body.messages", "messages must be a list")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise invalid(f"body.messages.{index}.role", f"the role is one of {', '.join(_ROLES)}")
        if not isinstance(message.get("content"), str | list):
            raise invalid(f"body.messages.{index}.content", "content is a text or a list of blocks")
    most = read_integer(body, "max_tokens")
    if most is None or most <= 0:
        raise invalid("body.max_tokens", "max_tokens must be a positive integer")
    passed = ("model", "stream", "temperature", "top_p")
    made = {name: body[name] for name in passed if body.get(name) is not None}
    system = body.get("system")
    opening = [{"role": "system", "content": system}] if system else []
    made["messages"] = [*opening, *messages]
    made["max_completion_tokens"] = most
    if body.get("stop_sequences") is not None:
        made["stop"] = body["stop_sequences"]
    return made


def error_body(error: ApiError) -> Json:
    """An error that came after the request was found to be well-formed; before, it has the OpenAI
    form here too."""
    return {"type": "error", "error": {"type": error.kind, "message": error.message}}


class MessageAnswer:
    """One answer: its parts as JSON, its events as bytes."""

    def __init__(self, *, request_id: str, model: str, prompt_tokens: int) -> None:
        self._id = request_id
        self._model = model
        self._prompt_tokens = prompt_tokens

    def whole(self, choice: Choice) -> Json:
        generation = choice.generation
        text = choice.text_between(0, generation.generated)
        content = [{"type": "text", "text": text}] if text else []
        # What is null is left out of a whole answer, and written in a stream.
        end = {key: value for key, value in _end(choice).items() if value is not None}
        return {**self._head(content), **end, "usage": self._usage(generation.generated)}

    def opening(self) -> bytes:
        """Everything before the first block."""
        end: Json = {"stop_reason": None, "stop_sequence": None}
        return _event("message_start", message={**self._head([]), **end, "usage": self._usage(0)})

    def block(self) -> bytes:
        return _event("content_block_start", content_block={"type": "text", "text": ""}, index=0)

    def delta(self, text: str) -> bytes:
        return _event("content_block_delta", delta={"type": "text_delta", "text": text}, index=0)

    def block_end(self) -> bytes:
        return _event("content_block_stop", index=0)

    def closing(self, choice: Choice) -> bytes:
        """Everything after the last block."""
        used = self._usage(choice.generation.generated)
        return _event("message_delta", delta=_end(choice), usage=used) + _event("message_stop")

    def _head(self, content: list[dict[str, str]]) -> Json:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self._model,
        }

    def _usage(self, tokens: int) -> Json:
        return {"input_tokens": self._prompt_tokens, "output_tokens": tokens}


def _end(choice: Choice) -> Json:
    if choice.generation.aborted:
        return {"stop_reason": None, "stop_sequence": None}
    if choice.stop_reason is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": choice.stop_reason}
    return {"stop_reason": _STOP_REASONS[choice.finish_reason], "stop_sequence": None}


def _event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: ".encode() + encode({"type": kind, **fields}) + b"\n\n"


async def answer_message(
    exchange: Exchange, watcher: asyncio.Future[None], choice: Choice, answer: MessageAnswer
) -> None:
    """The whole answer once it is there; nothing when the client has left (`watcher`)."""
    if await choice.ends_before(watcher):
        await exchange.answer_json(200, answer.whole(choice))


async def stream_message(
    exchange: Exchange,
    watcher: asyncio.Future[None],
    fate: Fate,
    choice: Choice,
    answer: MessageAnswer,
) -> None:
    """The events as their tokens come, until the end, the client's leaving or what fate brings."""
    generation = choice.generation
    sent, started = 0, False
    while not generation.finished or sent < generation.generated:
        await generation.changed.wait()
        generation.changed.clear()
        if watcher.done():
            return
        if not started:
            started = True
            await exchange.start(200, EVENT_STREAM, [])
            await exchange.send_part(answer.opening())
        if generation.generated > sent:
            text = choice.text_between(sent, generation.generated)
            opened = answer.block() if sent == 0 else b""
            sent = generation.generated
            await exchange.send_part(opened + answer.delta(text))
            if fate.cut:
                raise ConnectionCut("cut on purpose")
            if fate.stream_error:
                told = {"type": "internal_error", "message": "failed in mid-stream on purpose"}
                await exchange.send_part(_event("error", error=told))
                await exchange.finish()
                return
    ended = answer.block_end() if sent else b""
    await exchange.send_part(ended + answer.closing(choice))
    await exchange.finish()
