"""Which requests the tap measures, how it marks them, and that it changes none."""

from __future__ import annotations

from tests.worker_image.tapped import CHAT, COMPLETIONS, DONE, EVENT_STREAM, ROLE, Tapped, chat


async def test_answer_passes_unchanged_part_by_part(tapped: Tapped) -> None:
    parts = [ROLE, chat(content="a"), b"", b"half of an ev", b"ent\n\n" + DONE, b"after"]
    client = await tapped.play(*parts)
    assert [message["body"] for message in client.answered[1:-1]] == parts
    assert client.answered[0]["headers"] == [(b"Content-Type", EVENT_STREAM)]
    assert client.answered[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


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
