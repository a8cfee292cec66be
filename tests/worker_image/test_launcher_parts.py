"""The launcher's pure parts: readiness, the probe's rule, checksums, messages, metrics."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import hashlib
import os
import sys
import threading
from pathlib import Path

import pytest

from tests.worker_image.programs import LAUNCHER
from worker_image.launcher.checksums import (
    Cancelled,
    FoundFile,
    Progress,
    find_downloaded_files,
    find_files,
    hub_cache,
    split_by_size,
    verify_files,
)
from worker_image.launcher.command import blank_secrets, termination_message
from worker_image.launcher.config import FileChecksum, IdleProbe, Model
from worker_image.launcher.engine_process import make_environment
from worker_image.launcher.failure import CHECKSUM_MISMATCH, Failure, exit_code_of
from worker_image.launcher.idle_probe import count_tokens, progress_signature, should_probe
from worker_image.launcher.output import Tail
from worker_image.launcher.readiness import Facts, reasons_against
from worker_image.launcher.tasks import end_tasks
from worker_image.launcher.telemetry import Reading, render_metrics

READY = Facts(
    engine_running=True,
    engine_answered=True,
    files_verified=True,
    warmed_up=True,
    probe_failures=0,
    probe_failure_limit=3,
    last_probe_error="",
    draining=False,
)
PROBE = IdleProbe(interval=1.0, failures=3, timeout=2.0, busy_interval=5.0)


# -- readiness -----------------------------------------------------------------------------------


def test_worker_without_a_reason_against_it_is_ready() -> None:
    assert reasons_against(READY) == []
    assert reasons_against(dataclasses.replace(READY, probe_failures=2)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine_running": False}, "not running"),
        ({"engine_answered": False, "warmed_up": False}, "is starting"),
        ({"files_verified": False}, "being verified"),
        ({"warmed_up": False}, "warming up"),
        ({"probe_failures": 3, "last_probe_error": "no answer"}, "3 idle probes failed: no answer"),
        ({"draining": True}, "draining"),
    ],
)
def test_each_fact_alone_makes_it_not_ready(change: dict[str, object], words: str) -> None:
    reasons = reasons_against(dataclasses.replace(READY, **change))  # type: ignore[arg-type]  # table
    assert len(reasons) == 1
    assert words in reasons[0]


# -- probe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "since_last", "failures", "expected"),
    [
        (0, 1.0, 0, True),
        (None, 1.0, 0, True),
        (3, 1.0, 0, False),
        (3, 5.0, 0, True),
        (3, 1.0, 1, True),
    ],
)
def test_probe_comes_each_interval_when_idle_and_seldom_when_busy(
    load: int | None, since_last: float, failures: int, expected: bool
) -> None:
    assert should_probe(load, since_last, failures, PROBE) is expected


def test_progress_is_what_the_engine_did_and_not_what_arrived() -> None:
    page = (
        'vllm:num_requests_waiting{engine="0"} 1.0\n'
        'vllm:generation_tokens_total{engine="0"} 5.0\n'
        'vllm:iteration_tokens_total_count{engine="0"} 7.0\n'
    )
    before = progress_signature(page)
    assert len(before) == 2
    assert progress_signature(page.replace('waiting{engine="0"} 1.0', "waiting{} 9.0")) == before
    assert progress_signature(page.replace("7.0", "8.0")) != before


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [({"usage": {"completion_tokens": 2}}, 2), ({"usage": None}, 0), ([], 0), ({}, 0)],
)
def test_tokens_are_counted_in_usage(answer: object, tokens: int) -> None:
    assert count_tokens(answer) == tokens


# -- checksums -----------------------------------------------------------------------------------


def write(folder: Path, name: str, content: bytes) -> FileChecksum:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return FileChecksum(name, hashlib.sha256(content).hexdigest())


def test_right_files_are_verified_and_counted(tmp_path: Path) -> None:
    sums = [write(tmp_path, "a", b"x" * 100), write(tmp_path, "sub/b", b"y" * 50)]
    files = find_files(tmp_path, sums)
    progress = Progress()
    progress.expect(files)
    verify_files(files, progress, threading.Event())
    assert progress.complete
    assert progress.bytes_done == progress.bytes_total == 150


def test_changed_byte_is_found_with_both_sums(tmp_path: Path) -> None:
    checksum = write(tmp_path, "a", b"x" * 100)
    (tmp_path / "a").write_bytes(b"x" * 99 + b"y")
    with pytest.raises(Failure) as caught:
        verify_files(find_files(tmp_path, [checksum]), Progress(), threading.Event())
    assert caught.value.code == CHECKSUM_MISMATCH
    assert checksum.sha256 in caught.value.message
    assert hashlib.sha256(b"x" * 99 + b"y").hexdigest() in caught.value.message


def test_verification_can_be_given_up(tmp_path: Path) -> None:
    files = find_files(tmp_path, [write(tmp_path, "a", b"x")])
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        verify_files(files, Progress(), cancel)


def test_large_files_wait_for_the_engine_to_load() -> None:
    checksum = FileChecksum("a", "0" * 64)
    small = FoundFile(Path("a"), 10, checksum)
    large = FoundFile(Path("b"), 10**9, checksum)
    assert split_by_size([large, small]) == ([small], [large])


def test_files_of_a_hub_model_are_found_in_its_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    checksum = write(tmp_path, f"models--org--name/snapshots/{'a' * 40}/w.safetensors", b"w")
    sums = (FileChecksum("w.safetensors", checksum.sha256),)
    found = find_downloaded_files(Model("hub", "org/name", "a" * 40, "chat", sums))
    verify_files(found, Progress(), threading.Event())
    assert found[0].size == 1


def test_hub_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert hub_cache() == Path.home() / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert hub_cache() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/h")
    assert hub_cache() == Path("/h/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/c")
    assert hub_cache() == Path("/c")


# -- the end, in words ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait_status", "code"), [(0, 0), (3 << 8, 3), (9, 137), (11 | 0x80, 139), (15, 143)]
)
def test_exit_codes_are_those_of_the_shell(wait_status: int, code: int) -> None:
    assert exit_code_of(wait_status) == code


def test_message_starts_with_the_reason_and_ends_with_the_last_line() -> None:
    tail = "\n".join(f"line {number}" for number in range(5000))
    message = termination_message("it failed", tail, {})
    assert message.startswith("it failed\n")
    assert message.endswith("line 4999")
    assert len(message.encode()) <= 4096


def test_message_of_many_byte_characters_stays_within_the_limit() -> None:
    assert len(termination_message("é" * 5000, "日" * 5000, {}).encode()) <= 4096


def test_secret_looking_variables_are_blanked() -> None:
    environment = {"HF_TOKEN": "hf_abcdef", "AWS_SECRET_ACCESS_KEY": "s3cr3tkey", "LANG": "C.UTF-8"}
    text = blank_secrets("hf_abcdef s3cr3tkey C.UTF-8", environment)
    assert text == "<HF_TOKEN> <AWS_SECRET_ACCESS_KEY> C.UTF-8"


def test_tail_keeps_whole_lines_at_the_end() -> None:
    tail = Tail(limit=20)
    for number in range(100):
        tail.append(f"line {number}\n".encode())
    assert tail.text(20) == "line 98\nline 99"


# -- the rest ------------------------------------------------------------------------------------


def test_a_key_in_the_environment_is_refused_because_probes_have_none() -> None:
    with pytest.raises(Failure, match="VLLM_API_KEY is set"):
        make_environment({"VLLM_API_KEY": "x"})


def test_engine_environment_keeps_a_usable_home_and_number_port(tmp_path: Path) -> None:
    made = make_environment({"HOME": str(tmp_path), "VLLM_PORT": "8000", "USER": "someone"})
    assert made["HOME"] == str(tmp_path)
    assert made["VLLM_PORT"] == "8000"
    assert made["USER"] == "someone"
    assert os.access(make_environment({"HOME": "/nonexistent"})["HOME"], os.W_OK)


def test_metrics_leave_out_what_is_not_known_yet() -> None:
    reading = Reading(
        ready=False,
        draining=False,
        engine_up=True,
        ready_after=None,
        probe_latency=None,
        probe_failures_in_row=0,
        probes_passed=4,
        probes_passed_by_progress=1,
        probes_failed=2,
        verified_bytes=10**12,
    )
    page = render_metrics(reading)
    assert "latency" not in page
    assert "ready_after" not in page
    assert 'llmrollouts_launcher_idle_probes_total{result="failed"} 2\n' in page
    assert "llmrollouts_launcher_verified_bytes_total 1000000000000\n" in page
    later = render_metrics(dataclasses.replace(reading, ready=True, probe_latency=0.25))
    assert "llmrollouts_launcher_idle_probe_latency_seconds 0.25\n" in later
    assert "llmrollouts_launcher_ready 1\n" in later


def test_tasks_that_swallow_a_cancellation_are_ended_all_the_same() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    async def end_it() -> bool:
        task = asyncio.ensure_future(stubborn())
        await asyncio.sleep(0)
        await asyncio.wait_for(end_tasks([task]), 5)
        return task.cancelled()

    assert asyncio.run(end_it())


def test_launcher_parses_on_python_3_9_and_imports_only_the_standard_library() -> None:
    for file in sorted(LAUNCHER.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names, f"{file.name}: {name}"
