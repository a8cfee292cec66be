"""The tap as vLLM runs it: real messages through the real class, over a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import pytest

from worker_image.launcher.cohorts import Request
from worker_image.launcher.sampler import Sampler
from worker_image.launcher.tap.llmrollouts_tap import Tap, events, outlet, wire
from worker_image.launcher.tap.llmrollouts_tap.events import LONGEST_EVENT

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


@pytest.fixture
async def tapped(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tapped]:
    sampler = Sampler()
    variables = sampler.open()
    assert variables is not None
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = Tapped(sampler)
    yield made
    made.close()


async def test_answer_passes_unchanged_part_by_part(tapped: Tapped) -> None:
    parts = [ROLE, chat(content="a"), b"", b"half of an ev", b"ent\n\n" + DONE, b"after"]
    client = await tapped.play(*parts)
    assert [message["body"] for message in client.answered[1:-1]] == parts
    assert client.answered[0]["headers"] == [(b"Content-Type", EVENT_STREAM)]
    assert client.answered[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


# -- what a token is, in each dialect ------------------------------------------------------------

DIALECTS = {
    "chat": (
        CHAT,
        [ROLE, chat(content="a"), chat(content="b"), chat(content="", finish="stop"), DONE],
    ),
    "chat, several events in a part": (CHAT, [ROLE + chat(content="a") + chat(content="b"), DONE]),
    "chat, an event in several parts": (
        CHAT,
        [
            ROLE[:9],
            ROLE[9:] + chat(content="a")[:60],
            chat(content="a")[60:] + chat(content="b"),
            DONE,
        ],
    ),
    "chat, reasoning": (CHAT, [ROLE, chat(reasoning="a"), chat(reasoning="b"), DONE]),
    "chat, older reasoning": (CHAT, [chat(reasoning_content="a"), chat(content="b"), DONE]),
    "chat, a tool's call": (CHAT, [ROLE, chat(tool_calls=[TOOL]), chat(tool_calls=[TOOL]), DONE]),
    "chat, text that speaks of events": (
        CHAT,
        [chat(content='data: {"error"'), chat(content='"finish_reason":"abort" [DONE]'), DONE],
    ),
    "chat, the last token says stop": (
        CHAT,
        [ROLE, chat(content="a"), chat(content="b", finish="length"), DONE],
    ),
    "completions": (
        COMPLETIONS,
        [completion("a"), completion("b"), completion("", 0, "stop"), DONE],
    ),
    "responses": (
        RESPONSES,
        [
            event({"response": {"usage": None}}, "response.created"),
            event({"item": {}}, "response.output_item.added"),
            event({"delta": "", "output_index": 0}, "response.output_text.delta"),
            event({"delta": "a", "output_index": 0}, "response.reasoning_text.delta"),
            event({"delta": "b", "output_index": 1}, "response.output_text.delta"),
            event({"text": "b"}, "response.output_text.done"),
            event({"response": {"usage": {"output_tokens": 2}}}, "response.completed"),
        ],
    ),
    "messages": (
        MESSAGES,
        [
            event({"message": {"usage": {"output_tokens": 0}}}, "message_start"),
            event(
                {"index": 0, "content_block": {"type": "text", "text": ""}}, "content_block_start"
            ),
            event(
                {"index": 0, "delta": {"type": "thinking_delta", "thinking": "a"}},
                "content_block_delta",
            ),
            event(
                {"index": 1, "delta": {"type": "text_delta", "text": "b"}}, "content_block_delta"
            ),
            event({"index": 1}, "content_block_stop"),
            event({"usage": {"output_tokens": 2}}, "message_delta"),
            event({"type": "message_stop"}, "message_stop"),
        ],
    ),
}


@pytest.mark.parametrize("case", DIALECTS)
async def test_stream_of_two_tokens(tapped: Tapped, case: str) -> None:
    path, parts = DIALECTS[case]
    await tapped.play(*parts, path=path)
    assert await tapped.heard() == {"ok": 1}
    assert tapped.sampler.answer_lengths == {1: 1}


@pytest.mark.parametrize("case", DIALECTS)
async def test_stream_without_its_end_is_truncated(tapped: Tapped, case: str) -> None:
    path, parts = DIALECTS[case]
    await tapped.play(*parts[:-1], path=path)
    assert await tapped.heard() == {"truncated": 1}
    assert tapped.sampler.cut_streams == 1


async def test_marks_are_sent_at_powers_of_two(tapped: Tapped) -> None:
    await tapped.play(ROLE, *[chat(content="a")] * 9, DONE)
    await tapped.heard()
    ((_, requests),) = tapped.sampler.cohorts.between(0, 1 << 40)
    assert len(requests[0].marks) == 4
    assert requests[0].marks == sorted(requests[0].marks)
    assert requests[0].tokens == 9
    assert requests[0].streamed


async def test_usage_is_the_number_of_tokens_where_it_is_told(tapped: Tapped) -> None:
    await tapped.play(chat(content="several tokens in one event"), usage(8), DONE)
    assert await tapped.lengths() == {3: 1}


async def test_event_of_several_words_is_as_many_tokens(tapped: Tapped) -> None:
    """vLLM joins tokens into one event when its API server falls behind its engine."""
    joined = completion(" barley garden oak ridge mill garden")
    await tapped.play(completion(" barley"), joined, completion(" oak"), DONE, path=COMPLETIONS)
    assert await tapped.lengths() == {3: 1}
    ((_, requests),) = tapped.sampler.cohorts.between(0, 1 << 40)
    marks = requests[0].marks
    assert (requests[0].tokens, len(marks)) == (8, 4)
    assert marks[0] < marks[1] == marks[2] < marks[3], "both came with one event"


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (CHAT, [chat(reasoning="a"), chat(reasoning='many words " in it')]),
        (CHAT, [chat(content="a"), chat(content='with "quotes" and \\ more')]),
        (CHAT, [chat(content="a"), chat(content="x" * 80), *[chat(tool_calls=[TOOL])] * 4]),
        (RESPONSES, [event({"delta": text}, "response.output_text.delta") for text in "ab"] * 3),
        (
            MESSAGES,
            [
                event({"index": 0, "delta": {"text": text}}, "content_block_delta")
                for text in ("a", "four words and more words")
            ],
        ),
        (COMPLETIONS, [completion("echo of a long prompt"), *[completion("a")] * 5]),
        (
            COMPLETIONS,
            [
                completion("echo of a long prompt", 0),
                completion("echo of another long prompt", 1),
                *[completion("a", 1)] * 5,
            ],
        ),
    ],
)
async def test_words_are_counted_in_every_dialect(
    tapped: Tapped, path: str, parts: Sequence[bytes]
) -> None:
    end = {RESPONSES: event({}, "response.completed"), MESSAGES: event({}, "message_stop")}
    await tapped.play(*parts, end.get(path, DONE), path=path)
    ((_, requests),) = await tapped.requests()
    assert requests[0].tokens == 6


async def test_several_choices_are_one_request_of_the_longest_length(tapped: Tapped) -> None:
    first = [completion("a", 0), completion("b", 1)]
    more = [completion("c", 1), completion("d", 1), completion("e", 1), completion("f", 12)]
    await tapped.play(*first, *more, usage(7), DONE, path=COMPLETIONS)
    assert await tapped.lengths() == {2: 1}
    assert tapped.sampler.arrivals["live"] == 1


# -- how requests end ----------------------------------------------------------------------------

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


# -- which requests, and how they are marked ------------------------------------------------------


async def test_probes_with_the_token_are_not_counted_but_heard(tapped: Tapped) -> None:
    probe = [(b"x-llmrollouts-probe", tapped.sampler.token.encode())]
    await tapped.play(ROLE, chat(content="a"), DONE, headers=probe)
    await tapped.play(b"{}", path="/load", method="GET", headers=probe)
    assert await tapped.heard() == {}
    assert tapped.sampler.heard
    assert tapped.sampler.processes == 1
    assert tapped.sampler.arrivals == {"live": 0, "mirrored": 0}


async def test_user_cannot_pass_for_a_probe(tapped: Tapped) -> None:
    for value in (b"1", b"", tapped.sampler.token[:-1].encode(), "ü".encode("latin-1")):
        headers = [(b"x-llmrollouts-probe", value)]
        await tapped.play(ROLE, chat(content="a"), DONE, headers=headers)
    assert await tapped.heard() == {"ok": 4}


async def test_mirrored_requests_are_marked(tapped: Tapped) -> None:
    headers = [(b"x-llmrollouts-mirrored", b"1")]
    await tapped.play(ROLE, chat(content="a"), DONE, headers=headers)
    await tapped.heard()
    assert tapped.sampler.arrivals == {"live": 0, "mirrored": 1}


async def test_other_pages_are_not_measured(tapped: Tapped) -> None:
    await tapped.play(b"{}", path="/metrics", method="GET")
    await tapped.play(b"{}", path="/v1/models", method="GET")
    await tapped.play(b"{}", path=CHAT, method="OPTIONS")
    await tapped.play(b"{}", path="/load", method="GET")
    assert await tapped.heard() == {}
    # What users ask for is counted all the same: the gateway counts it too, and the two are
    # compared. What monitoring reads is not: it does not come through the gateway.
    assert tapped.sampler.others == 2


async def test_whether_a_stream_is_wanted_is_known_before_any_answer(tapped: Tapped) -> None:
    bodies = [
        ([b'{"stream":true}'], True),
        ([b'{"stre', b'am" :\n true, "n": 1}'], True),
        ([b'{"prompt": "' + b"x" * 70_000, b'", "stream": true}'], True),
        ([b'{"stream": false}'], False),
        ([b'{"prompt": "{\\"stream\\": true}"}'], False),
        ([b"{}"], False),
    ]
    for body, _ in bodies:
        await tapped.play(path=COMPLETIONS, body=body, status=500)
    await tapped.heard()
    found = [one for _, requests in tapped.sampler.cohorts.between(0, 1 << 40) for one in requests]
    assert [one.streamed for one in found] == [wanted for _, wanted in bodies]


# -- what goes wrong in the tap itself ------------------------------------------------------------


async def test_fault_of_the_tap_reaches_no_request(
    tapped: Tapped, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(events.EventReader, "feed", fail)
    client = await tapped.play(ROLE, chat(content="a"), DONE)
    assert len(client.answered) == 5
    assert await tapped.heard() == {}
    assert tapped.sampler.arrivals["live"] == 1
    assert tapped.sampler.cohorts.in_flight == 0, "it is forgotten, not taken for a hang"
    assert "lost sight of a request: ZeroDivisionError" in caplog.text


async def test_event_without_an_end_is_given_up(tapped: Tapped) -> None:
    part = b"x" * (LONGEST_EVENT // 4)
    client = await tapped.play(*[part] * 6)
    assert len(client.answered) == 8
    assert await tapped.heard() == {}
    assert tapped.sampler.cohorts.in_flight == 0


async def test_tap_without_a_launcher_is_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for variables in (
        {wire.ADDRESS_VARIABLE: "", wire.TOKEN_VARIABLE: ""},
        {wire.ADDRESS_VARIABLE: "@llmrollouts-nobody", wire.TOKEN_VARIABLE: "00" * 16},
        {wire.ADDRESS_VARIABLE: "@llmrollouts-nobody", wire.TOKEN_VARIABLE: "zz"},
    ):
        caplog.clear()
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        client = await Tapped(Sampler()).play(ROLE, chat(content="a"), DONE)
        assert len(client.answered) == 5
        assert "The tap is off" in caplog.text


async def test_tap_without_permission_for_a_socket_is_off(
    tapped: Tapped, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", refuse)
    client = await Tapped(tapped.sampler).play(ROLE, chat(content="a"), DONE)
    assert len(client.answered) == 5
    assert "Operation not permitted" in caplog.text
    assert Sampler().open() is None
    assert "no socket for it may be opened here" in caplog.text


async def test_records_wait_while_the_launcher_is_busy_and_none_is_lost(tapped: Tapped) -> None:
    """The kernel queues only ten datagrams; the launcher's loop is held up for longer."""
    asyncio.get_running_loop().remove_reader(tapped.sampler._socket.fileno())  # type: ignore[union-attr]  # opened by the fixture
    for _ in range(40):
        await tapped.play(ROLE, chat(content="a"), DONE)
    await asyncio.sleep(0.1)
    for _ in range(40):
        await tapped.heard()
        if tapped.sampler.ends["ok"] == 40:
            break
    assert tapped.sampler.ends == {"ok": 40}
    assert tapped.sampler.lost == 0


async def test_records_that_find_no_room_are_given_up_and_counted(
    tapped: Tapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "KEPT_RECORDS", 64)
    made, _ = outlet.open_outlet(os.environ)
    assert made is not None
    for _ in range(100):
        made.put(wire.RECORD.pack(wire.ALIVE, 0, 0, 0, 1.0, 0.0, 0))
    await tapped.heard()
    assert tapped.sampler.lost == 36
    made.close()


async def test_launcher_that_is_gone_is_noticed_once(
    tapped: Tapped, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = outlet.open_outlet(os.environ)
    assert made is not None
    tapped.sampler.close()
    for _ in range(3):
        made.put(wire.RECORD.pack(wire.ALIVE, 0, 0, 0, 1.0, 0.0, 0))
        await asyncio.sleep(0.12)
    assert caplog.text.count("Stopped reporting to the launcher") == 1
