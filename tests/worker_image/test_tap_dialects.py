"""What a token is for the tap, in each dialect of the API."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.worker_image.tapped import (
    CHAT,
    COMPLETIONS,
    DONE,
    MESSAGES,
    RESPONSES,
    ROLE,
    TOOL,
    Tapped,
    chat,
    completion,
    event,
    usage,
)

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
