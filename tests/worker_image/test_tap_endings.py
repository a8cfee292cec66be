"""How requests end for the tap: answers, errors, clients that leave, programs that fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.worker_image.tapped import (
    CHAT,
    COMPLETIONS,
    DONE,
    EVENT_STREAM,
    MESSAGES,
    RESPONSES,
    ROLE,
    STREAMED,
    TOOL,
    Client,
    Message,
    Tapped,
    chat,
    completion,
    event,
    usage,
)

ERROR = b'data: {"error": {"message": "out of luck", "code": 500}}\n\n'
FAILURE = event({"response": {"error": {}}}, "response.failed")
OVERLOADED = event({"type": "error", "error": {}}, "error")


@pytest.mark.parametrize(
    ("path", "parts", "how"),
    [
        (CHAT, [ROLE, chat(content="a"), ERROR, DONE], "failed"),
        (CHAT, [ERROR + DONE], "failed"),
        (CHAT, [ROLE, chat(content="a"), ERROR], "failed"),
        (COMPLETIONS, [completion("a"), ERROR, DONE], "failed"),
        (RESPONSES, [FAILURE], "failed"),
        (RESPONSES, [ERROR], "failed"),
        (MESSAGES, [OVERLOADED], "failed"),
        (CHAT, [ROLE, chat(content="", finish="stop"), DONE], "empty"),
        (CHAT, [ROLE, chat(content="", finish="stop"), usage(0), DONE], "empty"),
        (CHAT, [], "empty"),
        (COMPLETIONS, [completion("", 0, "stop"), DONE], "empty"),
        (CHAT, [ROLE, chat(content="a", finish="abort"), DONE], "truncated"),
        (CHAT, [ROLE, chat(content="a"), chat(content="", finish="abort"), DONE], "truncated"),
    ],
)
async def test_end_of_a_stream(tapped: Tapped, path: str, parts: Sequence[bytes], how: str) -> None:
    await tapped.play(*parts, path=path)
    assert await tapped.heard() == {how: 1}


def whole(text: str, tokens: int, choices: int = 1) -> bytes:
    one = {"message": {"content": text, "tool_calls": []}, "finish_reason": "stop"}
    used = {"prompt_tokens": 3, "completion_tokens": tokens}
    return json.dumps({"choices": [one] * choices, "usage": used}).encode()


CALL = {"message": {"content": None, "tool_calls": [TOOL]}, "finish_reason": "tool_calls"}
USED = {"usage": {"output_tokens": 9}}
ANSWERS = {
    "text": (CHAT, whole("hello", 8), "ok", {3: 1}),
    "no text": (CHAT, whole("", 1), "empty", {}),
    "no tokens": (CHAT, whole("x", 0), "empty", {}),
    "several choices": (CHAT, whole("hello", 12, 3), "ok", {2: 1}),
    "a tool's call": (CHAT, json.dumps({"choices": [CALL]}).encode(), "ok", {0: 1}),
    "log probabilities push all out of sight": (
        CHAT,
        b'{"logprobs":[' + b"-0.125," * 99_999 + b'],"usage":{"completion_tokens":4}}',
        "ok",
        {2: 1},
    ),
    "usage far from the end": (
        CHAT,
        whole("hello", 8)[:-1] + b',"prompt_logprobs":"' + b"." * 20_000 + b'"}',
        "ok",
        {3: 1},
    ),
    "completion": (COMPLETIONS, b'{"choices":[{"text":"a"}]}', "ok", {0: 1}),
    "aborted": (
        COMPLETIONS,
        b'{"choices":[{"text":"a","finish_reason":"abort"}]}',
        "truncated",
        {},
    ),
    "response": (RESPONSES, json.dumps({"output": [{"text": "a"}], **USED}).encode(), "ok", {3: 1}),
    "message": (MESSAGES, json.dumps({"content": [{"text": "a"}], **USED}).encode(), "ok", {3: 1}),
    "message with a tool": (
        MESSAGES,
        json.dumps({"content": [{"type": "tool_use", "input": {}}], **USED}).encode(),
        "ok",
        {3: 1},
    ),
    "error with 200": (CHAT, b'{"error":{"message":"x"}}', "failed", {}),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_answer_that_is_not_streamed(tapped: Tapped, case: str) -> None:
    path, answer, how, lengths = ANSWERS[case]
    half = len(answer) // 2
    body = [b'{"model":"chat","messages":[]}']
    await tapped.play(
        answer[:half], answer[half:], path=path, body=body, content_type=b"application/json"
    )
    assert await tapped.heard() == {how: 1}
    assert tapped.sampler.answer_lengths == lengths


@pytest.mark.parametrize(
    ("status", "how"),
    [(400, "refused"), (404, "refused"), (429, "refused"), (500, "failed"), (503, "failed")],
)
async def test_status_of_an_error(tapped: Tapped, status: int, how: str) -> None:
    await tapped.play(b'{"error":{}}', status=status, content_type=b"application/json")
    assert await tapped.heard() == {how: 1}


async def test_client_that_leaves_before_and_after_the_first_token(tapped: Tapped) -> None:
    for parts in ([], [ROLE], [ROLE, chat(content="a")]):
        client = Client([STREAMED])

        async def program(
            scope: Any, receive: Any, send: Any, parts: Any = parts, client: Client = client
        ) -> None:
            await receive()
            headers = [(b"content-type", EVENT_STREAM)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            client.gone.set()
            assert (await receive())["type"] == "http.disconnect"
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await tapped.run(program, client)
    assert await tapped.heard() == {"left": 3}
    assert tapped.sampler.cut_streams == 0


async def test_client_that_is_gone_when_the_answer_is_sent_has_left(tapped: Tapped) -> None:
    class Gone(Client):
        async def send(self, message: Message) -> None:
            raise BrokenPipeError

    async def program(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    with pytest.raises(BrokenPipeError):
        await tapped.run(program, Gone([STREAMED]))
    assert await tapped.heard() == {"left": 1}


async def test_client_that_leaves_while_it_uploads_never_arrived(tapped: Tapped) -> None:
    client = Client([])
    client.gone.set()

    async def program(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    await tapped.run(program, client)
    assert await tapped.heard() == {}
    assert tapped.sampler.arrivals["live"] == 0


async def test_client_that_closes_after_the_end_has_not_left(tapped: Tapped) -> None:
    client = Client([STREAMED])

    async def leave() -> None:
        client.gone.set()

    await tapped.play(ROLE, chat(content="a"), DONE, leave, finish=True)
    assert await tapped.heard() == {"ok": 1}


@pytest.mark.parametrize(
    ("parts", "how"), [([], "failed"), ([ROLE], "cut"), ([ROLE, chat(content="a")], "cut")]
)
async def test_program_that_fails_and_its_error_goes_on(
    tapped: Tapped, parts: Sequence[bytes], how: str
) -> None:
    async def fail() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        await tapped.play(*parts, fail)
    assert await tapped.heard() == {how: 1}
    assert tapped.sampler.cut_streams == (1 if len(parts) == 2 else 0)


async def test_request_that_is_cancelled_was_cut_by_the_server(tapped: Tapped) -> None:
    async def wait() -> None:
        await asyncio.sleep(60)

    task = asyncio.create_task(tapped.play(ROLE, chat(content="a"), wait))
    await asyncio.sleep(0.15)
    assert tapped.sampler.cohorts.in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await tapped.heard() == {"cut": 1}


async def test_program_that_fails_before_it_reads_the_request(tapped: Tapped) -> None:
    async def program(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("too early")

    with pytest.raises(RuntimeError, match="too early"):
        await tapped.run(program, Client([STREAMED]))
    assert await tapped.heard() == {"failed": 1}
    assert tapped.sampler.arrivals["live"] == 1
