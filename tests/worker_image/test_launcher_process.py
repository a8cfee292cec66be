"""The launcher and its engine as processes: start, probe, drain, stop, and every bad end."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.worker_image.programs import (
    ENGINE_BIN,
    Worker,
    call,
    complete,
    eventually,
    program_environment,
    stream_events,
)

StartWorker = Callable[..., Worker]

# Makes the launcher adopt orphans, as PID 1 of a container does, and then runs it.
ADOPT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def engine_script(folder: Path, text: str) -> str:
    """A PATH whose `vllm` is this shell script; `$REAL` in it is the fake engine."""
    folder.mkdir(exist_ok=True)
    script = folder / "vllm"
    script.write_text(f"#!/bin/sh\nREAL={ENGINE_BIN / 'vllm'}\n{text}\n", encoding="utf-8")
    script.chmod(0o755)
    return str(folder)


def with_engine(folder: Path, text: str) -> dict[str, str]:
    path = program_environment()["PATH"]
    return {"PATH": f"{engine_script(folder, text)}:{path}"}


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


# -- bad ends ------------------------------------------------------------------------------------


def test_crash_of_the_engine_is_told_with_its_code_and_last_lines(worker: StartWorker) -> None:
    started = worker().until_ready()
    started.set_faults(crash_code=3)
    call(started.engine_port, "/fake/faults", {"crash": True})
    assert started.wait() == 3
    assert "the engine ended with exit code 3 while it served" in started.last_words
    assert "Crashed on purpose" in started.last_words


def test_engine_killed_by_a_signal_gives_128_and_the_signal(worker: StartWorker) -> None:
    started = worker().until_ready()
    engines = started.engine_processes()
    assert len(engines) == 1
    os.kill(engines[0], signal.SIGKILL)
    assert started.wait() == 137
    assert "signal 9" in started.last_words


def test_engine_that_fails_to_start_is_told(worker: StartWorker) -> None:
    started = worker(environment={"FAKE_ENGINE_FAIL_START": "true"})
    assert started.wait() == 1
    assert "before it was ready" in started.last_words
    assert "Failed to start on purpose" in started.last_words


def test_engine_that_dies_within_milliseconds_is_noticed_every_time(
    worker: StartWorker, tmp_path: Path
) -> None:
    environment = with_engine(tmp_path / "bin", "exit 6")
    assert [worker(environment=environment).wait() for _ in range(5)] == [6] * 5


def test_engine_that_stops_by_itself_is_a_failure(worker: StartWorker, tmp_path: Path) -> None:
    started = worker(environment=with_engine(tmp_path / "bin", "echo bye; exit 0"))
    assert started.wait() == 70
    assert "stopped by itself with exit code 0" in started.last_words
    assert "bye" in started.last_words


def test_wrong_checksum_ends_the_worker_before_the_engine_starts(
    worker: StartWorker, models: Path
) -> None:
    started = worker(checksums={"model.safetensors": "sha256:" + "0" * 64})
    assert started.wait() == 65
    assert "model.safetensors: expected sha256 0000" in started.last_words
    assert sum_of(models / "v1" / "model.safetensors") in started.last_words
    assert "Started the engine" not in started.log


def test_wrong_checksum_of_large_weights_stops_the_loading_engine(
    worker: StartWorker, models: Path
) -> None:
    weights = models / "v1" / "large.safetensors"
    with weights.open("wb") as file:
        file.truncate(65 * 1024 * 1024)
    try:
        started = worker(
            checksums={"large.safetensors": "0" * 64},
            environment={"FAKE_ENGINE_START_SECONDS": "30"},
        )
        assert started.wait() == 65
        assert "Started the engine" in started.log, "large files are verified while it loads"
        assert "large.safetensors" in started.last_words
        assert started.engine_processes() == []
    finally:
        weights.unlink()


def test_file_named_in_checksums_that_is_missing(worker: StartWorker) -> None:
    started = worker(checksums={"gone.safetensors": "0" * 64})
    assert started.wait() == 65
    assert "gone.safetensors is named in model.checksums but cannot be read" in started.last_words


def test_model_that_is_not_there(worker: StartWorker) -> None:
    model = {"kind": "path", "path": "/models/nowhere", "servedName": "chat"}
    started = worker(settings={"model": model})
    assert started.wait() == 66
    assert "model /models/nowhere does not exist in this container" in started.last_words


def test_bad_configuration(worker: StartWorker) -> None:
    started = worker(settings={"drainWait": 3})
    assert started.wait() == 64
    assert "unknown field drainWait" in started.last_words
    assert "unknown field drainWait" in started.log


def test_configuration_that_is_no_json(worker: StartWorker) -> None:
    started = worker(raw_config="{")
    assert started.wait() == 64
    assert "is not valid JSON" in started.last_words


def test_image_without_vllm(worker: StartWorker) -> None:
    started = worker(environment={"PATH": "/usr/bin:/bin"})
    assert started.wait() == 69
    assert "this image has no vllm" in started.last_words


def test_secrets_do_not_reach_the_termination_log(worker: StartWorker, tmp_path: Path) -> None:
    environment = {
        **with_engine(tmp_path / "bin", 'echo "bad token $HF_TOKEN" >&2; exit 4'),
        "HF_TOKEN": "hf_very_secret",
    }
    started = worker(environment=environment)
    assert started.wait() == 4
    assert "bad token <HF_TOKEN>" in started.last_words
    assert "hf_very_secret" not in started.last_words


def test_termination_log_is_bounded_to_the_last_lines(worker: StartWorker, tmp_path: Path) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i >&2; done; exit 9"
    started = worker(environment=with_engine(tmp_path / "bin", script))
    assert started.wait() == 9
    assert len(started.last_words.encode()) <= 4096
    assert started.last_words.endswith("line 2000")
    assert "exit code 9" in started.last_words.splitlines()[0]
    assert "line 1\n" in started.log, "the log has all of it"


def test_engine_gets_no_development_mode_and_a_home_it_can_write(
    worker: StartWorker, tmp_path: Path
) -> None:
    script = f'env > {tmp_path}/env; exec $REAL "$@"'
    started = worker(
        environment={
            **with_engine(tmp_path / "bin", script),
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_USE_RUST_FRONTEND": "1",
            "VLLM_PORT": "tcp://10.0.0.1:8000",
            "VLLM_LOGGING_LEVEL": "INFO",
        }
    ).until_ready()
    lines = (tmp_path / "env").read_text(encoding="utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if "=" in line)
    assert given["VLLM_LOGGING_LEVEL"] == "INFO"
    assert not {
        "VLLM_SERVER_DEV_MODE",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_USE_RUST_FRONTEND",
        "VLLM_PORT",
    } & set(given)
    assert Path(given["HOME"]).is_dir()
    assert started.ready


def test_orphans_of_the_engine_are_collected(worker: StartWorker, tmp_path: Path) -> None:
    script = '( sleep 0.3 & ) ; ( sleep 0.3 & ) ; exec $REAL "$@"'
    started = worker(
        environment=with_engine(tmp_path / "bin", script), prefix=[sys.executable, "-c", ADOPT]
    ).until_ready()
    time.sleep(0.5)
    states = []
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except (OSError, NotADirectoryError):
            continue
        if stat[1] == str(started.process.pid):
            states.append(stat[0])
    assert len(states) == 1, "only the engine is left"
    assert "Z" not in states
