"""The launcher and its engine as processes: start, probe, drain, stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.worker_image.programs import (
    Worker,
    call,
    complete,
    eventually,
    stream_events,
    sum_of,
)

StartWorker = Callable[..., Worker]


# -- start ---------------------------------------------------------------------------------------


def test_worker_becomes_ready_after_checksums_and_warm_up(
    worker: StartWorker, models: Path
) -> None:
    weights = models / "v1" / "model.safetensors"
    started = worker(checksums={"model.safetensors": sum_of(weights)}).until_ready()

    assert complete(started.engine_port).status == 200
    assert call(started.port, "/healthz").status == 200
    assert started.metric("ready") == 1
    assert started.metric("verified_bytes_total") == weights.stat().st_size
    status = call(started.port, "/status").json
    assert status["phase"] == "serving"
    assert status["files"]["verified"] is True
    assert "Warmed up, request 2 of 2" in started.log
    assert "Uvicorn running" in started.log, "the engine's own log is forwarded"


def test_worker_is_alive_but_not_ready_while_the_engine_loads(worker: StartWorker) -> None:
    started = worker(environment={"FAKE_ENGINE_START_SECONDS": "1.5"})
    eventually(lambda: call(started.port, "/healthz").status == 200, "alive")
    assert "the engine is starting" in started.why_not_ready()
    started.until_ready()


def test_engine_that_never_answers_ends_the_worker_with_75(worker: StartWorker) -> None:
    started = worker(
        settings={"startTimeoutSeconds": 1}, environment={"FAKE_ENGINE_START_SECONDS": "60"}
    )
    assert started.wait() == 75
    assert "did not answer /health within 1 s" in started.last_words


def test_unknown_page_lists_the_pages(worker: StartWorker) -> None:
    started = worker()
    eventually(lambda: call(started.port, "/nope").status == 404, "answers")
    assert "/readyz" in call(started.port, "/nope").text


# -- idle probe ----------------------------------------------------------------------------------


def test_frozen_engine_makes_the_worker_not_ready_and_it_recovers(worker: StartWorker) -> None:
    started = worker().until_ready()
    started.set_faults(hang=True)
    eventually(lambda: not started.ready, "not ready")
    assert call(started.engine_port, "/health").status == 200, "the engine itself sees nothing"
    assert "idle probes failed: no answer to /v1/completions" in started.why_not_ready()
    assert call(started.port, "/healthz").status == 200

    started.set_faults(hang=False)
    eventually(lambda: started.ready, "ready again")
    assert started.metric('idle_probes_total{result="failed"}') >= 3


def test_two_failed_probes_do_not_make_the_worker_not_ready(worker: StartWorker) -> None:
    settings = {"idleProbe": {"intervalSeconds": 0.1, "failures": 1000, "timeoutSeconds": 0.2}}
    started = worker(settings=settings).until_ready()
    started.set_faults(error_rate=1.0)
    eventually(lambda: started.metric("idle_probe_failures_in_row") >= 3, "failures counted")
    assert started.ready
    started.set_faults(error_rate=0.0)
    eventually(lambda: started.metric("idle_probe_failures_in_row") == 0, "one success resets")


def test_engine_that_answers_without_tokens_becomes_not_ready(worker: StartWorker) -> None:
    started = worker().until_ready()
    started.set_faults(empty_rate=1.0)
    eventually(lambda: not started.ready, "not ready")
    assert "without a single token" in started.why_not_ready()


def test_overloaded_engine_stays_ready_because_it_makes_progress(worker: StartWorker) -> None:
    # One sequence at a time, 490 tokens of 10 ms: a probe waits for seconds behind the users.
    started = worker(engine_arguments=["--max-num-seqs", "1"]).until_ready()
    started.set_faults(tpot_ms=10)
    users = [
        threading.Thread(target=complete, args=(started.engine_port, 490), daemon=True)
        for _ in range(2)
    ]
    for user in users:
        user.start()
    eventually(lambda: started.metric('idle_probes_total{result="progress"}') >= 2, "probes saved")
    assert started.ready
    assert started.metric("idle_probe_failures_in_row") == 0
    started.set_faults(tpot_ms=0)
    for user in users:
        user.join()


def test_engine_that_freezes_under_load_becomes_not_ready(worker: StartWorker) -> None:
    started = worker().until_ready()
    started.set_faults(tpot_ms=10)
    user = threading.Thread(target=complete, args=(started.engine_port, 400), daemon=True)
    user.start()
    eventually(lambda: call(started.engine_port, "/load").json["server_load"] > 0, "busy")
    started.set_faults(hang=True)
    eventually(lambda: not started.ready, "not ready")
    started.set_faults(hang=False, tpot_ms=0)
    user.join()
    eventually(lambda: started.ready, "ready again")


def test_probes_are_marked_so_that_faults_can_spare_them(worker: StartWorker) -> None:
    started = worker().until_ready()
    started.set_faults(error_rate=1.0, spare_probes=True)
    assert complete(started.engine_port).status == 500
    passed = started.metric('idle_probes_total{result="token"}')
    eventually(
        lambda: started.metric('idle_probes_total{result="token"}') > passed + 2, "probes pass"
    )
    assert started.ready


# -- drain ---------------------------------------------------------------------------------------


def test_drain_is_not_ready_at_once_serves_on_and_answers_after_the_wait(
    worker: StartWorker,
) -> None:
    started = worker(settings={"drainWaitSeconds": 1.0}).until_ready()
    answers: list[tuple[int, float]] = []

    def drain() -> None:
        began = time.monotonic()
        answers.append((call(started.port, "/drain").status, time.monotonic() - began))

    callers = [threading.Thread(target=drain) for _ in range(2)]
    for caller in callers:
        caller.start()
    eventually(lambda: not started.ready, "not ready", 0.9)
    assert not answers, "the answer must not come before the wait is over"
    assert complete(started.engine_port).status == 200, "requests still under way are served"
    assert started.metric("draining") == 1
    for caller in callers:
        caller.join()
    assert [status for status, _ in answers] == [200, 200]
    assert max(seconds for _, seconds in answers) >= 0.9

    began = time.monotonic()
    started.terminate()
    assert started.wait() == 0
    assert time.monotonic() - began < 5, "the wait is not repeated after /drain"
    assert started.last_words == ""


def test_drain_without_a_stop_is_taken_back(worker: StartWorker) -> None:
    settings = {"drainWaitSeconds": 0.1, "drainLapseSeconds": 0.3}
    started = worker(settings=settings).until_ready()
    assert call(started.port, "/drain").status == 200
    assert not started.ready
    eventually(lambda: started.ready, "ready again")
    assert "Took the drain back" in started.log


def test_stream_in_flight_survives_the_stop(worker: StartWorker) -> None:
    started = worker().until_ready()
    started.set_faults(tpot_ms=10)
    events: list[str] = []
    for event in stream_events(started.engine_port, 200):
        events.append(event)
        if len(events) == 5:
            started.terminate()
    assert events[-1] == "[DONE]"
    assert len(events) == 201
    assert started.wait() == 0
    assert "Stopped the engine cleanly" in started.log


def test_stop_without_drain_waits_for_the_proxies_first(worker: StartWorker) -> None:
    started = worker(settings={"drainWaitSeconds": 1.0}).until_ready()
    began = time.monotonic()
    started.terminate()
    eventually(lambda: not started.ready, "not ready", 0.9)
    assert complete(started.engine_port).status == 200, "the engine serves during the wait"
    assert started.wait() == 0
    assert time.monotonic() - began >= 1.0


def test_stop_while_starting_is_immediate(worker: StartWorker) -> None:
    started = worker(
        settings={"drainWaitSeconds": 30}, environment={"FAKE_ENGINE_START_SECONDS": "60"}
    )
    eventually(lambda: "Started the engine" in started.log, "engine started")
    began = time.monotonic()
    started.terminate()
    assert started.wait() == 0
    assert time.monotonic() - began < 5
    assert started.engine_processes() == []


def test_engine_that_will_not_stop_is_killed(worker: StartWorker) -> None:
    settings = {"shutdownTimeoutSeconds": 0, "killMarginSeconds": 0.5}
    started = worker(settings=settings).until_ready()
    started.set_faults(ignore_sigterm=True)
    started.terminate()
    assert started.wait() == 137
    assert "did not stop within 0.5 s of SIGTERM and was killed" in started.last_words
    assert started.engine_processes() == []
