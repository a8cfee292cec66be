"""The tap where it belongs: the launcher, the fake engine as its child, users over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import statistics
import time
from collections.abc import Callable
from typing import Any

from tests.worker_image.programs import (
    Worker,
    call,
    complete,
    eventually,
    stream_events,
    with_engine,
)
from worker_image.launcher.grid import BOUNDS

StartWorker = Callable[..., Worker]
QUERY = "lags=ttft:0.5;tpot:0.5;e2e:0.5;duration:0.5;errors:0.5&reference=4"


class Page:
    """What a worker has measured since a moment, once all of it has closed."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._clock = self.read()

    def read(self, query: str = "") -> Any:
        answer = call(self._worker.port, f"/samples?{query}")
        assert answer.status == 200, answer.text
        return answer.json

    def since(self) -> Any:
        """The page, when every request that has arrived until now has closed."""
        until = self.read()["now"] + 1.7
        eventually(lambda: self.read()["now"] >= until, "closed")
        return self.read(f"{QUERY}&since={self._clock['now']}&boot={self._clock['boot']}")


def counts(page: Any, metric: str) -> tuple[int, int, int]:
    """(done, left, over) of a metric over all cohorts."""
    rows = [row for row in page["closed"] if row[0] == metric]
    done, left = (sum(n for row in rows for _, n in row[place]) for place in (4, 5))
    return done, left, sum(row[3] for row in rows)


def outcomes(page: Any) -> tuple[int, ...]:
    """(total, failed, refused) over all cohorts."""
    return tuple(sum(row[place] for row in page["outcomes"]) for place in (2, 3, 4))


def middle(page: Any, metric: str) -> float:
    """The median of a metric as the bound of its bucket, in seconds."""
    rows = [row for row in page["closed"] if row[0] == metric]
    values = [BOUNDS[bucket] for row in rows for bucket, n in row[4] for _ in range(n)]
    found: float = statistics.median_high(values)
    return found


def test_users_are_measured_and_warm_up_and_probes_are_not(worker: StartWorker) -> None:
    started = worker().until_ready()
    page = Page(started)
    eventually(lambda: started.metric('idle_probes_total{result="token"}') > 3, "probed")
    assert page.read()["tap"] is True
    assert page.read()["arrivals"] == {"live": 0, "mirrored": 0}

    for _ in range(3):
        assert len(list(stream_events(started.engine_port, 9))) == 10
        assert complete(started.engine_port, 5).status == 200
    assert complete(started.engine_port, 5, n=3).status == 200
    mirrored = {"x-llmrollouts-mirrored": "1"}
    body = {"model": "chat", "prompt": "hello", "max_tokens": 1, "stream": True}
    assert call(started.engine_port, "/v1/completions", body, headers=mirrored).status == 200
    assert complete(started.engine_port, 100_000).status == 400

    told = page.since()
    assert told["arrivals"] == {"live": 8, "mirrored": 1}
    assert told["processes"] == 1
    assert (told["lost"], told["in_flight"], told["cut"]) == (0, 0, 0)
    assert outcomes(told) == (9, 0, 1)
    assert counts(told, "ttft") == (4, 0, 0), "streams alone have a first token"
    assert counts(told, "tpot") == (3, 0, 0), "an answer of one token has no time per token"
    assert counts(told, "e2e") == (7, 0, 0)
    assert counts(told, "duration") == (8, 0, 0)
    assert told["tokens"] == [[0, 1], [2, 4], [3, 3]]
    assert started.metric('tap_ends_total{how="ok"}') == 8
    assert started.metric('tap_ends_total{how="refused"}') == 1


def test_chat_is_measured_like_completions(worker: StartWorker) -> None:
    started = worker().until_ready()
    page = Page(started)
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    for extra in (
        {},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
    ):
        assert call(started.engine_port, "/v1/chat/completions", {**body, **extra}).status == 200
    told = page.since()
    assert outcomes(told) == (3, 0, 0)
    assert counts(told, "ttft") == (2, 0, 0)
    assert told["tokens"] == [[3, 3]]


def test_messages_are_measured_too(worker: StartWorker) -> None:
    started = worker().until_ready()
    page = Page(started)
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}
    streamed = {**body, "stream": True}
    assert call(started.engine_port, "/v1/messages", body).status == 200
    assert call(started.engine_port, "/v1/messages", streamed).status == 200
    assert call(started.engine_port, "/v1/messages", {**body, "max_tokens": 0}).status == 400
    started.set_faults(spare_probes=True, stream_error_rate=1.0)
    assert call(started.engine_port, "/v1/messages", streamed).status == 200
    started.set_faults(stream_error_rate=0.0, empty_rate=1.0)
    assert call(started.engine_port, "/v1/messages", streamed).status == 200
    told = page.since()
    assert outcomes(told) == (5, 2, 1)
    assert counts(told, "ttft") == (1, 0, 2)
    assert told["tokens"] == [[3, 2]]


def test_responses_are_measured_too(worker: StartWorker) -> None:
    started = worker().until_ready()
    page = Page(started)
    body = {"model": "chat", "input": "hello", "max_output_tokens": 9}
    assert call(started.engine_port, "/v1/responses", body).status == 200
    assert call(started.engine_port, "/v1/responses", {**body, "stream": True}).status == 200
    started.set_faults(spare_probes=True, stream_error_rate=1.0)
    assert call(started.engine_port, "/v1/responses", {**body, "stream": True}).status == 200
    started.set_faults(stream_error_rate=0.0, empty_rate=1.0)
    assert call(started.engine_port, "/v1/responses", {**body, "stream": True}).status == 200
    told = page.since()
    assert outcomes(told) == (4, 2, 0)
    assert counts(told, "ttft") == (1, 0, 2)
    assert told["tokens"] == [[3, 2]]


def test_each_failure_is_seen_as_what_it_is(worker: StartWorker) -> None:
    started = worker().until_ready()
    page = Page(started)
    started.set_faults(spare_probes=True)
    faults = ("error_rate", "stream_error_rate", "cut_rate", "empty_rate")
    for fault in faults:
        started.set_faults(**{fault: 1.0})
        body = {"model": "chat", "prompt": "hello", "max_tokens": 5, "stream": True}
        with contextlib.suppress(http.client.IncompleteRead):  # what a cut is to its client
            call(started.engine_port, "/v1/completions", body)
        started.set_faults(**{fault: 0.0})
    told = page.since()
    assert outcomes(told) == (4, 4, 0)
    assert counts(told, "ttft") == (0, 0, 4)
    assert told["cut"] == 2, "the stream with an error and the one that was cut"
    for how, times in (("failed", 2), ("cut", 1), ("empty", 1)):
        assert started.metric(f'tap_ends_total{{how="{how}"}}') == times, how
    assert started.ready


def test_hang_is_over_while_it_lasts_and_left_once_the_client_gives_up(worker: StartWorker) -> None:
    started = worker().until_ready()
    page = Page(started)
    started.set_faults(spare_probes=True, hang_rate=1.0)
    body = {"model": "chat", "prompt": "hello", "stream": True}
    assert call(started.engine_port, "/v1/completions", body, timeout=0.3).status == 0
    eventually(lambda: page.read()["in_flight"] == 0, "the client has left")
    first = page.since()
    assert counts(first, "ttft") == (0, 1, 0)
    assert outcomes(first) == (0, 0, 0)

    assert call(started.engine_port, "/v1/completions", body, timeout=1.2).status == 0
    second = page.since()
    assert counts(second, "ttft") == (0, 1, 1), "at its age of half a second it was unanswered"
    assert outcomes(second) == (1, 0, 0)
    assert started.metric('tap_ends_total{how="left"}') == 2


def test_client_that_leaves_in_mid_stream(worker: StartWorker) -> None:
    started = worker().until_ready()
    page = Page(started)
    started.set_faults(tpot_ms=30)
    stream = stream_events(started.engine_port, 400)
    for _ in range(6):
        next(stream)
    stream.close()
    eventually(lambda: started.metric('tap_ends_total{how="left"}') == 1, "noticed")
    told = page.since()
    assert counts(told, "ttft") == (1, 0, 0)
    assert counts(told, "tpot") == (1, 0, 0)
    assert counts(told, "e2e") == (1, 0, 0), "it had its reference token"
    assert counts(told, "duration") == (0, 1, 0)
    assert outcomes(told) == (1, 0, 0)


def test_engine_that_is_slowed_down_at_run_time_is_seen_to_be_slower(worker: StartWorker) -> None:
    started = worker().until_ready()
    started.set_faults(ttft_ms=20, tpot_ms=10)
    before = Page(started)
    for _ in range(5):
        list(stream_events(started.engine_port, 8))
    fast = before.since()
    started.set_faults(slowdown=2)
    after = Page(started)
    for _ in range(5):
        list(stream_events(started.engine_port, 8))
    slow = after.since()
    for metric, expected in (("ttft", 0.030), ("tpot", 0.010), ("e2e", 0.060)):
        assert expected * 0.9 < middle(fast, metric) < expected * 1.6, metric
        assert 1.6 < middle(slow, metric) / middle(fast, metric) < 2.4, metric


def test_worker_that_starts_again_has_another_boot(worker: StartWorker) -> None:
    first = worker().until_ready()
    boot = Page(first).read()["boot"]
    complete(first.engine_port)
    first.terminate()
    assert first.wait() == 0
    page = Page(worker().until_ready()).read(f"{QUERY}&since=1&boot={boot}")
    assert page["boot"] != boot
    assert page["arrivals"]["live"] == 0
    assert page["since"] == page["now"]


def test_tap_can_be_switched_off(worker: StartWorker) -> None:
    started = worker(settings={"tap": False}).until_ready()
    complete(started.engine_port)
    time.sleep(0.1)
    page = Page(started).read(f"{QUERY}&since=0")
    assert (page["tap"], page["processes"], page["closed"]) == (False, 0, [])
    assert "--middleware" not in started.log
    assert "Heard nothing" not in started.log


def test_engine_that_does_not_run_the_tap_serves_and_the_pages_say_so(
    worker: StartWorker, tmp_path: Any
) -> None:
    script = 'exec env -u LLMROLLOUTS_TAP_SOCKET "$REAL" "$@"'
    started = worker(environment=with_engine(tmp_path / "bin", script)).until_ready()
    assert complete(started.engine_port).status == 200
    assert Page(started).read()["tap"] is False
    assert started.metric("tap_up") == 0
    assert "Heard nothing from the tap" in started.log


def test_bad_question_is_answered_with_400(worker: StartWorker) -> None:
    started = worker()
    eventually(lambda: call(started.port, "/samples").status == 200, "answers")
    answer = call(started.port, "/samples?lags=ttft:-1")
    assert answer.status == 400
    assert "'-1' in lags is no number of seconds" in answer.text
