"""The fake engine: the same contract as the real one, and the faults it can be told to have."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.models.tiny_model import SEA_WORDS
from tests.worker_image.programs import FakeEngine, call, complete, stream_events
from tests.worker_image.record_contract import differences, fake_data, record
from worker_image.fake_engine.behavior import BadBehavior, Behavior, change, read_environment
from worker_image.fake_engine.command import wrap_in_middleware
from worker_image.fake_engine.options import BadOptions, parse_options

StartEngine = Callable[..., FakeEngine]
CONTRACT = Path(__file__).parent / "contract" / "vllm-0.32.0.json"
RECORDED = Path(__file__).parents[2] / "worker_image" / "fake_engine" / "recorded.json"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(CONTRACT.read_text(encoding="utf-8"))
    return content


def text_of(answer: Any) -> str:
    text: str = answer.json["choices"][0]["text"]
    return text


# -- the contract --------------------------------------------------------------------------------


def test_fake_engine_answers_like_the_recorded_vllm(
    engine: StartEngine, golden: dict[str, Any]
) -> None:
    started = engine().until_healthy()
    found = record(f"http://127.0.0.1:{started.port}")
    expected = {name: golden[name] for name in ("cases", "metrics")}
    assert differences(expected, found) == []


def test_fake_engine_knows_exactly_the_recorded_flags_and_metrics(golden: dict[str, Any]) -> None:
    assert RECORDED.read_text(encoding="utf-8") == fake_data(golden)


def test_differences_are_told(golden: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(golden))
    changed["cases"]["chat"]["status"] = 500
    del changed["metrics"]["families"]["vllm:num_requests_running"]
    changed["cases"]["chat stream"]["events"].pop()
    lines = differences(golden, changed)
    assert len(lines) == 3
    assert any("/cases/chat/status: expected 200, found 500" in line for line in lines)


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        ["chat", "/m"],
        ["serve", "/m", "--no-such-flag"],
        ["serve", "/m", "--port"],
        ["serve", "/m", "--port", "x"],
        ["serve", "/m", "--enforce-eager=1"],
        ["serve", "/m", "/n"],
    ],
)
def test_command_line_that_vllm_would_refuse_is_refused(arguments: list[str]) -> None:
    with pytest.raises(BadOptions):
        parse_options(arguments)


def test_command_line_of_vllm_is_understood() -> None:
    line = (
        "serve /m --served-model-name a b --max_model_len=8 --enforce-eager --seed -1 "
        "--cudagraph-capture-sizes 1 2 --shutdown-timeout 3 --fake-tpot-ms 7 --fake-hang "
        "--middleware a.B --middleware c.D"
    )
    options = parse_options(line.split())
    assert options.served_names == ("a", "b")
    assert options.max_model_len == 8
    assert options.shutdown_timeout == 3
    assert options.middleware == ("a.B", "c.D")
    assert options.fake == {"tpot-ms": "7", "hang": "true"}


def test_model_that_is_not_there_ends_it(engine: StartEngine) -> None:
    started = engine(model="v3")
    assert started.wait() == 1
    assert "cannot load the model" in started.log


def test_length_above_the_models_ends_it(engine: StartEngine) -> None:
    started = engine("--max-model-len", "100000")
    assert started.wait() == 1
    assert "max_model_len 100000" in started.log


# -- answers -------------------------------------------------------------------------------------


def test_same_prompt_gives_the_same_answer_and_another_model_other_words(
    engine: StartEngine,
) -> None:
    first, second = engine().until_healthy(), engine(model="v2").until_healthy()
    assert text_of(complete(first.port)) == text_of(complete(first.port))
    assert text_of(complete(first.port)) != text_of(complete(second.port))
    assert set(text_of(complete(second.port)).split()) <= set(SEA_WORDS)


def test_response_has_the_text_of_the_completion_streamed_and_whole(engine: StartEngine) -> None:
    started = engine().until_healthy()
    wanted = text_of(complete(started.port, 12))
    body = {"model": "chat", "input": "hello", "max_output_tokens": 12, "temperature": 0}
    whole = call(started.port, "/v1/responses", body).json
    assert whole["output"][0]["content"][0]["text"] == wanted
    assert (whole["usage"]["output_tokens"], whole["status"]) == (12, "incomplete")
    stream = call(started.port, "/v1/responses", {**body, "stream": True}).text
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    deltas = [one["delta"] for one in events if one["type"] == "response.output_text.delta"]
    assert "".join(deltas) == wanted
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    assert call(started.port, "/v1/responses", {**body, "input": []}).status == 400


def test_stop_string_ends_the_answer_before_it(engine: StartEngine) -> None:
    started = engine().until_healthy()
    words = text_of(complete(started.port, 20)).split()
    answer = complete(started.port, 20, stop=f" {words[3]}")
    assert text_of(answer).split() == words[: words.index(words[3])]
    assert answer.json["choices"][0]["finish_reason"] == "stop"
    assert answer.json["choices"][0]["stop_reason"] == f" {words[3]}"


def test_streamed_text_is_the_text(engine: StartEngine) -> None:
    started = engine().until_healthy()
    events = list(stream_events(started.port, 30))
    assert events[-1] == "[DONE]"
    streamed = "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])
    assert len(streamed.split()) == 30


def test_known_prefix_is_counted_as_cached(engine: StartEngine) -> None:
    started = engine().until_healthy()
    prompt = " ".join(f"word{number}" for number in range(64))
    complete(started.port, prompt=prompt)
    complete(started.port, prompt=prompt)
    page = call(started.port, "/metrics").text
    assert 'vllm:prefix_cache_hits_total{engine="0",model_name="chat"} 48.0' in page


def test_latency_grows_with_slowdown_and_with_the_batch(engine: StartEngine) -> None:
    started = engine("--fake-tpot-ms", "2", "--fake-batch-slope", "0.5").until_healthy()

    def seconds(copies: int) -> float:
        began = time.monotonic()
        assert complete(started.port, 50, n=copies).status == 200
        return time.monotonic() - began

    alone = seconds(1)
    assert alone >= 0.1
    assert seconds(10) > 2 * alone
    started.set_faults(slowdown=4)
    assert seconds(1) > 2.5 * alone


def test_environment_and_model_folder_set_the_behaviour(models: Path) -> None:
    assert read_environment({"FAKE_ENGINE_TTFT_MS": "20", "PATH": "x"}) == {"ttft_ms": "20"}
    assert change(Behavior(), {"ttft_ms": "20", "hang": "true"}) == Behavior(ttft_ms=20, hang=True)
    config = json.loads((models / "v1" / "config.json").read_text(encoding="utf-8"))
    assert "meadow" in config["fake_engine"]["words"]


@pytest.mark.parametrize(
    "settings",
    [
        {"nonsense": 1},
        {"error_rate": 1.5},
        {"ttft_ms": -1},
        {"ttft_ms": "x"},
        {"ttft_ms": float("nan")},
        {"hang": 3},
        {"slowdown": True},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(BadBehavior):
        change(Behavior(), settings)


# -- faults --------------------------------------------------------------------------------------


def test_faults_are_set_shown_and_taken_back(engine: StartEngine) -> None:
    started = engine("--fake-ttft-ms", "3").until_healthy()
    started.set_faults(slowdown=2)
    shown = call(started.port, "/fake/faults").json
    assert shown["slowdown"] == 2
    assert shown["ttft_ms"] == 3
    assert call(started.port, "/fake/faults", {"slowdown": -1}).status == 400
    assert call(started.port, "/fake/faults", [1]).status == 400
    assert call(started.port, "/fake/faults").json["slowdown"] == 2


def test_error_rate_is_a_share_of_requests(engine: StartEngine) -> None:
    started = engine("--fake-error-rate", "0.3", "--fake-seed", "7").until_healthy()
    failed = sum(complete(started.port, 1).status == 500 for _ in range(200))
    assert 35 <= failed <= 85


def test_error_status_can_be_chosen(engine: StartEngine) -> None:
    started = engine("--fake-error-rate", "1", "--fake-error-status", "503").until_healthy()
    answer = complete(started.port)
    assert answer.status == 503
    assert answer.json["error"]["code"] == 503


def test_error_in_mid_stream_comes_inside_a_200(engine: StartEngine) -> None:
    started = engine("--fake-stream-error-rate", "1").until_healthy()
    events = list(stream_events(started.port, 20))
    assert json.loads(events[-2])["error"]["code"] == 500
    assert events[-1] == "[DONE]"


def test_cut_stream_ends_without_done(engine: StartEngine) -> None:
    started = engine("--fake-cut-rate", "1").until_healthy()
    events = list(stream_events(started.port, 20))
    assert events
    assert "[DONE]" not in events


def test_garbage_and_empty_answers_are_successes_on_the_wire(engine: StartEngine) -> None:
    started = engine().until_healthy()
    sound = text_of(complete(started.port))
    started.set_faults(garbage_rate=1)
    assert text_of(complete(started.port)) != sound
    started.set_faults(garbage_rate=0, empty_rate=1)
    empty = complete(started.port)
    assert empty.status == 200
    assert text_of(empty) == ""
    assert empty.json["usage"]["completion_tokens"] == 0


def test_hang_leaves_health_at_200(engine: StartEngine) -> None:
    started = engine("--fake-hang-rate", "1").until_healthy()
    body = {"model": "chat", "prompt": "hello", "max_tokens": 1}
    assert call(started.port, "/v1/completions", body, timeout=0.5).status == 0
    assert call(started.port, "/health").status == 200


def test_crash_after_some_requests(engine: StartEngine) -> None:
    started = engine("--fake-crash-after", "3", "--fake-crash-code", "9").until_healthy()
    assert [complete(started.port).status for _ in range(3)] == [200, 200, 0]
    assert started.wait() == 9


def test_client_that_leaves_frees_its_place(engine: StartEngine) -> None:
    started = engine("--fake-tpot-ms", "20").until_healthy()
    stream = stream_events(started.port, 400)
    next(stream)
    assert call(started.port, "/load").json["server_load"] == 1
    stream.close()
    deadline = time.monotonic() + 5
    while call(started.port, "/load").json["server_load"] and time.monotonic() < deadline:
        time.sleep(0.02)
    page = call(started.port, "/metrics").text
    assert 'vllm:num_requests_running{engine="0",model_name="chat"} 0.0' in page


def test_full_queue_refuses_with_503(engine: StartEngine) -> None:
    started = engine(
        "--max-num-seqs", "1", "--max-num-queued-reqs", "1", "--fake-tpot-ms", "20"
    ).until_healthy()
    users = [
        threading.Thread(target=complete, args=(started.port, 100), daemon=True) for _ in range(2)
    ]
    for user in users:
        user.start()
        time.sleep(0.2)
    assert complete(started.port).status == 503
    started.set_faults(tpot_ms=0)
    for user in users:
        user.join()


# -- stopping ------------------------------------------------------------------------------------


def test_stop_finishes_streams_and_refuses_new_requests(engine: StartEngine) -> None:
    started = engine("--shutdown-timeout", "10", "--fake-tpot-ms", "10").until_healthy()
    events: list[str] = []
    refused = 0
    for event in stream_events(started.port, 100):
        events.append(event)
        if len(events) == 5:
            started.terminate()
        if len(events) == 30:
            refused = complete(started.port).status
            assert call(started.port, "/health").status == 200
    assert len(events) == 101
    assert events[-1] == "[DONE]"
    assert refused == 500
    assert started.wait() == 0


def test_stop_without_time_aborts_streams(engine: StartEngine) -> None:
    started = engine("--fake-tpot-ms", "10").until_healthy()
    events: list[str] = []
    for event in stream_events(started.port, 400):
        events.append(event)
        if len(events) == 5:
            started.terminate()
    assert len(events) < 100
    assert started.wait() == 0


# -- middleware ----------------------------------------------------------------------------------


def test_middleware_class_sees_requests_and_a_function_is_refused() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        return

    wrapped = wrap_in_middleware(app, ["tests.worker_image.test_fake_engine.Tap"])
    assert type(wrapped).__name__ == "Tap"
    with pytest.raises(BadOptions, match="must be a class"):
        wrap_in_middleware(app, ["json.dumps"])
    with pytest.raises(BadOptions, match="cannot import"):
        wrap_in_middleware(app, ["no.such.Thing"])


class Tap:
    """An ASGI middleware class, as the tap will be one."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)
