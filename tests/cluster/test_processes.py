"""Only the very process that was started counts as alive, and only that one is ever signalled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from e2e.cluster import processes
from e2e.cluster.processes import Identity

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
IGNORE = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
DEAF = [SLEEP[0], "-c", f"{IGNORE}; {SLEEP[2]}"]


def identify(pid: int) -> Identity:
    started = processes.start_time(pid)
    assert started is not None
    return Identity(pid, started, processes.boot_id(), "command")


def spawn(command: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
    assert child.stdout is not None
    child.stdout.readline()
    return child


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with spawn(SLEEP) as started:
        yield started
        started.kill()


def write(file: Path, identity: Identity) -> Path:
    file.write_text(json.dumps(asdict(identity)))
    return file


def test_a_running_process_is_alive(child: subprocess.Popen[bytes]) -> None:
    assert processes.is_alive(identify(child.pid))


def test_a_process_that_ended_is_not_alive_even_before_it_is_reaped(
    child: subprocess.Popen[bytes],
) -> None:
    identity = identify(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert not processes.is_alive(identity)


def test_a_reused_pid_is_not_ours(child: subprocess.Popen[bytes]) -> None:
    identity = identify(child.pid)
    assert not processes.is_alive(replace(identity, started=identity.started - 1))


def test_a_pid_from_before_a_reboot_is_not_ours(child: subprocess.Popen[bytes]) -> None:
    assert not processes.is_alive(replace(identify(child.pid), boot="another"))


def test_stop_leaves_a_stranger_with_our_pid_alone(
    child: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    identity = identify(child.pid)
    file = write(tmp_path / "x.pid", replace(identity, started=identity.started - 1))
    assert processes.stop(file, patience=1) is False
    assert child.poll() is None
    assert not file.exists()


def test_stop_ends_the_process_and_removes_the_file(
    child: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    file = write(tmp_path / "x.pid", identify(child.pid))
    assert processes.stop(file, patience=5) is True
    assert child.wait(5) == -signal.SIGTERM
    assert not file.exists()


def test_stop_kills_what_ignores_the_request(tmp_path: Path) -> None:
    with spawn(DEAF) as deaf:
        file = write(tmp_path / "x.pid", identify(deaf.pid))
        start = time.monotonic()
        assert processes.stop(file, patience=0.3) is True
        assert deaf.wait(5) == -signal.SIGKILL
        assert time.monotonic() - start < 5


def test_stop_ends_a_frozen_process(child: subprocess.Popen[bytes], tmp_path: Path) -> None:
    child.send_signal(signal.SIGSTOP)
    file = write(tmp_path / "x.pid", identify(child.pid))
    assert processes.stop(file, patience=5) is True
    assert child.wait(5) == -signal.SIGTERM


@pytest.mark.parametrize("text", ["", "{", "{}", '{"pid": 1}', "null"])
def test_a_damaged_pid_file_names_no_process(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.pid").write_text(text)
    assert processes.read_identity(tmp_path / "x.pid") is None


def test_a_missing_pid_file_names_no_process(tmp_path: Path) -> None:
    assert processes.read_identity(tmp_path / "x.pid") is None
    assert processes.stop(tmp_path / "x.pid", patience=1) is False


def test_the_name_of_a_program_may_hold_spaces_and_brackets() -> None:
    fields = " ".join(["S", *map(str, range(1, 19)), "4711", "0"])
    assert processes.parse_stat(f"12 (a) (b c) {fields}") == ("S", 4711)


def test_owned_processes_are_found_without_their_pid_files(tmp_path: Path) -> None:
    owner = str(tmp_path / "cluster")
    with spawn(SLEEP, {**os.environ, processes.OWNER_VARIABLE: owner}) as marked:
        assert [i.pid for i in processes.list_owned(owner)] == [marked.pid]
        assert processes.list_owned(f"{owner}-other") == []
        assert owner in processes.list_foreign("another")
        processes.kill_all(processes.list_owned(owner))
        assert marked.wait(5) == -signal.SIGKILL
    assert processes.list_owned(owner) == []


def test_another_argument_or_configuration_means_another_command() -> None:
    plain = processes.hash_command(["etcd", "--a"])
    assert plain == processes.hash_command(["etcd", "--a"])
    assert plain != processes.hash_command(["etcd", "--b"])
    assert plain != processes.hash_command(["etcd", "--a"], ["file"])


def test_the_age_of_a_process_is_counted_from_its_start(child: subprocess.Popen[bytes]) -> None:
    assert 0 <= processes.age(identify(child.pid)) < 30
