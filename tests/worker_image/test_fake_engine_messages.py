"""The fake engine's /v1/messages: the chat's text in the other protocol, and its faults."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.worker_image.programs import Answer, FakeEngine, call

StartEngine = Callable[..., FakeEngine]


def ask_for_message(started: FakeEngine, tokens: int = 12, **fields: object) -> Answer:
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": "chat", "messages": messages, "max_tokens": tokens, "temperature": 0}
    return call(started.port, "/v1/messages", {**body, **fields})


def events_of_message(answer: Answer) -> list[dict[str, Any]]:
    """The events; each is named as its type says."""
    parts = [part.split("\n") for part in answer.text.split("\n\n") if part]
    events = [json.loads(data.removeprefix("data: ")) for _, data in parts]
    assert [name for name, _ in parts] == [f"event: {event['type']}" for event in events]
    return events


def test_message_has_the_text_of_the_chat_streamed_and_whole(engine: StartEngine) -> None:
    started = engine().until_healthy()
    messages = [{"role": "system", "content": "a fox"}, {"role": "user", "content": "hello"}]
    body = {"model": "chat", "messages": messages, "max_tokens": 12, "temperature": 0}
    wanted = call(started.port, "/v1/chat/completions", body).json["choices"][0]["message"]
    whole = ask_for_message(started, system="a fox").json
    assert whole["content"] == [{"type": "text", "text": wanted["content"]}]
    assert (whole["stop_reason"], whole["usage"]["output_tokens"]) == ("max_tokens", 12)
    events = events_of_message(ask_for_message(started, system="a fox", stream=True))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    deltas = [event for event in events if event["type"] == "content_block_delta"]
    assert "".join(event["delta"]["text"] for event in deltas) == wanted["content"]
    assert len(deltas) == 12
    assert events[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert events[-2]["usage"] == whole["usage"]


def test_message_says_which_string_stopped_it(engine: StartEngine) -> None:
    started = engine().until_healthy()
    words = ask_for_message(started).json["content"][0]["text"].split()
    answer = ask_for_message(started, stop_sequences=[f" {words[3]}"]).json
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", f" {words[3]}")
    started.set_faults(mean_answer_tokens=2)
    assert ask_for_message(started, 400).json["stop_reason"] == "end_turn"
    assert ask_for_message(started, max_tokens="7").status == 200, "as vLLM takes it"


def test_faults_of_a_message_look_like_vllms(engine: StartEngine) -> None:
    started = engine().until_healthy()
    started.set_faults(error_rate=1)
    failed = ask_for_message(started)
    assert (failed.status, failed.json["type"]) == (500, "error")
    started.set_faults(error_rate=0, stream_error_rate=1)
    events = events_of_message(ask_for_message(started, stream=True))
    assert events[-1]["error"]["type"] == "internal_error"
    assert "message_stop" not in [event["type"] for event in events]
    started.set_faults(stream_error_rate=0, cut_rate=1)
    with pytest.raises(http.client.IncompleteRead):
        ask_for_message(started, stream=True)
    started.set_faults(cut_rate=0, empty_rate=1)
    assert ask_for_message(started).json["content"] == []
    kinds = [event["type"] for event in events_of_message(ask_for_message(started, stream=True))]
    assert kinds == ["message_start", "message_delta", "message_stop"]
