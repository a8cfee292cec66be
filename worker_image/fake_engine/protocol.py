"""Requests as the API defines them: parsing, checking, and the errors that bad ones get.

An `ApiError` carries the same status, type and parameter as vLLM's; its message is our own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .language import tokenize

UNREADABLE = "Bad Request"
DEFAULT_COMPLETION_TOKENS = 16


class ApiError(Exception):
    """An answer in the OpenAI error form."""

    def __init__(
        self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param

    def body(self) -> dict[str, object]:
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.status,
            }
        }


@dataclass(frozen=True)
class Request:
    """A completion or chat request after all checks."""

    is_chat: bool
    model: str
    prompts: tuple[tuple[int, ...], ...]  # token ids
    prompt_texts: tuple[str, ...]
    choices: int
    max_tokens: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    echo: bool
    stops: tuple[str, ...]
    ignore_eos: bool
    temperature: float
    seed: int | None
    logprobs: int | None
    prompt_logprobs: int | None


def invalid(param: str | None, message: str) -> ApiError:
    """What is found while a body is read, before anybody looks at its sense."""
    return ApiError(400, f"1 validation error: {message}", UNREADABLE, param)


def read_body(body: bytes, content_type: str) -> dict[str, object]:
    """The decoded JSON object, or what vLLM answers to something else."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise invalid(None, "only the media type application/json is supported")
    try:
        content = json.loads(body)
    except json.JSONDecodeError as error:
        raise invalid(f"body.{error.pos}", f"bad JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise invalid("body", "the body is not UTF-8") from error
    if not isinstance(content, dict):
        raise invalid("body", "the body must be a JSON object")
    return content


class _Reader:
    """Takes typed fields; a wrong type is a validation error that names `body.<field>`."""

    def __init__(self, body: Mapping[str, object]) -> None:
        self._body = body

    def raw(self, name: str) -> object:
        return self._body.get(name)

    def integer(self, name: str) -> int | None:
        value = self._body.get(name)
        if value is None:
            return None
        if isinstance(value, str) and value.lstrip("-").isdigit():
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(f"body.{name}", f"{name} must be an integer")
        return value

    def number(self, name: str, default: float) -> float:
        value = self._body.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise invalid(f"body.{name}", f"{name} must be a number")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self._body.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise invalid(f"body.{name}", f"{name} must be true or false")
        return value

    def text(self, name: str) -> str | None:
        value = self._body.get(name)
        if value is not None and not isinstance(value, str):
            raise invalid(f"body.{name}", f"{name} must be a string")
        return value


def read_integer(body: Mapping[str, object], name: str) -> int | None:
    """A whole number, also as text; None where it is missing."""
    return _Reader(body).integer(name)


def parse_request(
    body: Mapping[str, object],
    *,
    is_chat: bool,
    served_names: Sequence[str],
    max_model_len: int,
) -> Request:
    """All checks in vLLM's order: types, model, values, lengths."""
    read = _Reader(body)
    stream = read.flag("stream")
    stream_options = body.get("stream_options")
    max_tokens = read.integer("max_tokens")
    if is_chat:
        completion_tokens = read.integer("max_completion_tokens")
        max_tokens = completion_tokens if completion_tokens is not None else max_tokens
        if "messages" not in body:
            raise invalid("body.messages", "messages is required")
    choices = read.integer("n")
    temperature = read.number("temperature", 1.0)
    top_p = read.number("top_p", 1.0)
    model = read.text("model")
    seed = read.integer("seed")
    stops = _read_stops(body.get("stop"))
    echo = read.flag("echo")
    ignore_eos = read.flag("ignore_eos")
    if is_chat:
        top = read.integer("top_logprobs") or 0
        logprobs = top if read.flag("logprobs") else None
    else:
        logprobs = read.integer("logprobs")
    prompt_logprobs = read.integer("prompt_logprobs")
    if stream_options is not None and not stream:
        raise ApiError(400, "stream_options needs stream=true", param="stream_options")
    if model is not None and model not in served_names:
        raise ApiError(
            404,
            f"There is no model `{model}` here. Known: {', '.join(served_names)}.",
            "NotFoundError",
            "model",
        )
    texts, prompts = _read_messages(body) if is_chat else _read_prompts(body)
    _check_values(temperature, top_p, choices)
    longest = max(len(prompt) for prompt in prompts)
    _check_lengths(max_tokens, longest, max_model_len)
    room = max_model_len - longest
    if max_tokens is None:
        max_tokens = room if is_chat else min(DEFAULT_COMPLETION_TOKENS, room)
    options = stream_options if isinstance(stream_options, dict) else {}
    return Request(
        is_chat=is_chat,
        model=model or served_names[0],
        prompts=prompts,
        prompt_texts=texts,
        choices=choices or 1,
        max_tokens=max_tokens,
        stream=stream,
        include_usage=options.get("include_usage") is True,
        continuous_usage=options.get("continuous_usage_stats") is True,
        echo=echo,
        stops=stops,
        ignore_eos=ignore_eos,
        temperature=temperature,
        seed=seed,
        logprobs=logprobs,
        prompt_logprobs=None if stream else prompt_logprobs,
    )


def _check_values(temperature: float, top_p: float, choices: int | None) -> None:
    if temperature < 0:
        raise ApiError(400, f"temperature is negative: {temperature}", param="temperature")
    if not 0 < top_p <= 1:
        raise ApiError(400, f"top_p is not in (0, 1]: {top_p}", param="top_p")
    if choices is not None and choices < 1:
        raise ApiError(400, f"n is below 1: {choices}", param="n")


def _check_lengths(max_tokens: int | None, longest: int, max_model_len: int) -> None:
    if max_tokens is not None and max_tokens > max_model_len:
        raise ApiError(400, f"max_tokens={max_tokens} is above {max_model_len}", param="max_tokens")
    if max_tokens is not None and max_tokens < 1:
        raise ApiError(400, f"max_tokens is below 1: {max_tokens}", param="max_tokens")
    if longest + (max_tokens or 1) > max_model_len:
        raise ApiError(
            400,
            f"The prompt has {longest} tokens and {max_tokens or 1} more were asked for; this "
            f"model takes {max_model_len} in all.",
            param="input_tokens",
        )


def _read_stops(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise invalid("body.stop", "stop must be a string or a list of strings")
    return tuple(stop for stop in stops if stop)


Prompts = tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]


def _read_prompts(body: Mapping[str, object]) -> Prompts:
    prompt = body.get("prompt")
    if isinstance(prompt, str) and prompt:
        return (prompt,), (tuple(tokenize(prompt)),)
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, str) and item for item in prompt):
            return tuple(prompt), tuple(tuple(tokenize(item)) for item in prompt)
        if all(isinstance(item, int) for item in prompt):
            return ("",), (tuple(prompt),)
        if all(isinstance(item, list) and item for item in prompt):
            return ("",) * len(prompt), tuple(tuple(item) for item in prompt)
    if prompt is None or prompt in ("", []):
        raise ApiError(400, "prompt is missing or empty", param="prompt")
    raise invalid("body.prompt", "prompt must be text or token ids, or a list of either")


def _read_messages(body: Mapping[str, object]) -> Prompts:
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise invalid("body.messages", "messages must be a list")
    if not messages:
        raise ApiError(400, "messages is empty: give at least one")
    lines = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise invalid(f"body.messages.{index}.role", "each message needs a role")
        lines.append(f"{message['role']}: {_message_text(message.get('content'))}\n")
    text = "".join(lines) + "assistant:"
    return (text,), (tuple(tokenize(text)),)


def _message_text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""
