"""The requests whose answers are recorded and compared: each path, each way to be refused."""

from __future__ import annotations

from dataclasses import dataclass

CHAT = [{"role": "user", "content": "hello world"}]


@dataclass(frozen=True)
class Case:
    """One request; `raw` is sent as it is, `body` as JSON."""

    name: str
    path: str
    body: object = None
    raw: str | None = None
    method: str = "POST"
    content_type: str | None = "application/json"


def completion(name: str, **fields: object) -> Case:
    return Case(name, "/v1/completions", {"model": "chat", "temperature": 0, **fields})


def chat(name: str, **fields: object) -> Case:
    return Case(name, "/v1/chat/completions", {"model": "chat", "temperature": 0, **fields})


def message(name: str, **fields: object) -> Case:
    return Case(name, "/v1/messages", {"model": "chat", "temperature": 0, **fields})


USAGE = {"include_usage": True}
CASES = (
    Case("models", "/v1/models", method="GET"),
    Case("version", "/version", method="GET"),
    Case("health", "/health", method="GET"),
    Case("load", "/load", method="GET"),
    Case("ping", "/ping", method="GET"),
    Case("unknown path", "/nope", method="GET"),
    Case("wrong method", "/v1/completions", method="GET"),
    completion("completion", prompt="hello", max_tokens=3, ignore_eos=True),
    completion("completion of token ids", prompt=[3, 4, 5], max_tokens=2, ignore_eos=True),
    completion(
        "completion of two prompts", prompt=["hello", "paris is"], max_tokens=2, ignore_eos=True
    ),
    completion("completion, n", prompt="hello", n=2, temperature=1, max_tokens=2, ignore_eos=True),
    completion("completion, echo", prompt="hello", max_tokens=2, echo=True, ignore_eos=True),
    completion("completion, logprobs", prompt="hello", max_tokens=2, logprobs=2, ignore_eos=True),
    completion(
        "completion, prompt logprobs",
        prompt="hello world",
        max_tokens=1,
        prompt_logprobs=1,
        ignore_eos=True,
    ),
    completion("completion stream", prompt="hello", max_tokens=4, stream=True, ignore_eos=True),
    completion(
        "completion stream, usage",
        prompt="hello",
        max_tokens=4,
        stream=True,
        stream_options=USAGE,
        ignore_eos=True,
    ),
    Case("completion without a model", "/v1/completions", {"prompt": "hello", "max_tokens": 1}),
    completion("unknown field", prompt="hello", max_tokens=1, ignore_eos=True, nonsense=1),
    chat("chat", messages=CHAT, max_tokens=3, ignore_eos=True),
    chat("chat, n", messages=CHAT, n=2, temperature=1, max_tokens=2, ignore_eos=True),
    chat(
        "chat, system and parts",
        max_tokens=2,
        ignore_eos=True,
        messages=[
            {"role": "system", "content": "you are a fox"},
            {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        ],
    ),
    chat("chat, max_completion_tokens", messages=CHAT, max_completion_tokens=2, ignore_eos=True),
    chat(
        "chat, logprobs",
        messages=CHAT,
        max_tokens=2,
        logprobs=True,
        top_logprobs=2,
        ignore_eos=True,
    ),
    chat("chat stream", messages=CHAT, max_tokens=4, stream=True, ignore_eos=True),
    chat(
        "chat stream, usage",
        messages=CHAT,
        max_tokens=4,
        stream=True,
        stream_options=USAGE,
        ignore_eos=True,
    ),
    Case("tokenize", "/tokenize", {"model": "chat", "prompt": "hello world"}),
    Case("unknown model", "/v1/completions", {"model": "nope", "prompt": "hello"}),
    Case("chat, unknown model", "/v1/chat/completions", {"model": "nope", "messages": CHAT}),
    Case("bad JSON", "/v1/completions", raw="{bad"),
    Case("not an object", "/v1/completions", raw="[1]"),
    Case(
        "wrong media type",
        "/v1/completions",
        raw='{"prompt": "hello"}',
        content_type="text/plain",
    ),
    Case("no body", "/v1/completions", raw="", content_type=None),
    completion("no prompt"),
    completion("empty prompt", prompt="", max_tokens=1),
    completion("prompt too long", prompt="hello " * 600, max_tokens=1),
    completion("max_tokens too large", prompt="hello", max_tokens=5000),
    completion("max_tokens 0", prompt="hello", max_tokens=0),
    completion("max_tokens of the wrong type", prompt="hello", max_tokens="many"),
    completion("negative temperature", prompt="hello", temperature=-1),
    completion("top_p out of range", prompt="hello", top_p=2),
    completion("stream_options without stream", prompt="hello", stream_options=USAGE),
    chat("chat, no messages", messages=[]),
    chat("chat, messages missing"),
    chat("chat, prompt too long", messages=[{"role": "user", "content": "hello " * 600}]),
    chat("chat, max_tokens too large", messages=CHAT, max_tokens=5000),
    message("message", messages=CHAT, max_tokens=3),
    message(
        "message, system and parts",
        max_tokens=2,
        system="you are a fox",
        messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    ),
    message("message stream", messages=CHAT, max_tokens=4, stream=True),
    Case(
        "message, unknown model",
        "/v1/messages",
        {"model": "nope", "messages": CHAT, "max_tokens": 2},
    ),
    Case("message without a model", "/v1/messages", {"messages": CHAT, "max_tokens": 2}),
    Case("message, wrong method", "/v1/messages", method="GET"),
    Case("message, bad JSON", "/v1/messages", raw="{bad"),
    Case("message, not an object", "/v1/messages", raw="[1]"),
    Case(
        "message, wrong media type",
        "/v1/messages",
        raw='{"messages": []}',
        content_type="text/plain",
    ),
    message("message, no max_tokens", messages=CHAT),
    message("message, max_tokens 0", messages=CHAT, max_tokens=0),
    message("message, max_tokens of the wrong type", messages=CHAT, max_tokens="many"),
    message("message, max_tokens too large", messages=CHAT, max_tokens=5000),
    message("message, no messages", messages=[], max_tokens=2),
    message("message, messages missing", max_tokens=2),
    message(
        "message, unknown role",
        messages=[{"role": "fox", "content": "hello"}],
        max_tokens=2,
    ),
    message(
        "message, prompt too long",
        messages=[{"role": "user", "content": "hello " * 600}],
        max_tokens=2,
    ),
    message("message, top_p out of range", messages=CHAT, max_tokens=2, top_p=2),
)
