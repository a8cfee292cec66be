"""Every bad end of a worker: its exit code, and what its last words tell."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.worker_image.programs import (
    Worker,
    call,
    sum_of,
    with_engine,
)

StartWorker = Callable[..., Worker]

# Makes the launcher adopt orphans, as PID 1 of a container does, and then runs it.
ADOPT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


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
