"""Starts the launcher and the fake engine as the processes they are in a pod."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.harness.processes import closed_port

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCHER = REPOSITORY / "worker_image" / "launcher"
ENGINE_BIN = REPOSITORY / "worker_image" / "fake_engine" / "bin"
HOST = "127.0.0.1"
PATIENCE_SECONDS = 20.0


def eventually(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until `condition` holds; fail with `what` if it never does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


@dataclass(frozen=True)
class Answer:
    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def call(
    port: int,
    path: str,
    body: object = None,
    *,
    timeout: float = PATIENCE_SECONDS,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """GET, or POST when there is a body; status 0 when nobody answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        content = None if body is None else json.dumps(body)
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"
        connection.request("GET" if body is None else "POST", path, body=content, headers=sent)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode())
    except OSError as error:
        return Answer(0, str(error))
    finally:
        connection.close()


def complete(port: int, max_tokens: int = 4, **fields: object) -> Answer:
    body = {"model": "chat", "prompt": "hello", "max_tokens": max_tokens, "temperature": 0}
    return call(port, "/v1/completions", {**body, **fields})


def stream_events(port: int, max_tokens: int) -> Generator[str, None, None]:
    """The events of one streamed completion as they arrive; ends early when the stream is cut."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_SECONDS)
    try:
        body = {"model": "chat", "prompt": "hello", "max_tokens": max_tokens, "stream": True}
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", body=json.dumps(body), headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        while True:
            try:
                line = answer.readline()
            except (http.client.IncompleteRead, OSError):
                return
            if not line:
                return
            if line.startswith(b"data: "):
                yield line[len(b"data: ") :].decode().strip()
    finally:
        connection.close()


def program_environment(**variables: str) -> dict[str, str]:
    """PATH with this Python and the fake `vllm`; nothing of the caller's own environment."""
    path = os.pathsep.join([str(ENGINE_BIN), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    return {"PATH": path, "HOME": "/nonexistent", **variables}


class Program:
    """One process with its output in a file."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str], cwd: Path
    ) -> None:
        self.log_file = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=cwd,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        return self.process.wait(seconds)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        if self.running:
            self.process.kill()
        self.process.wait(PATIENCE_SECONDS)


class FakeEngine(Program):
    """`vllm serve` of the fake engine."""

    def __init__(self, model: Path, log: Path, arguments: Sequence[str]) -> None:
        self.port = closed_port()
        command = [str(ENGINE_BIN / "vllm"), "serve", str(model), "--port", str(self.port)]
        command += ["--served-model-name", "chat", "--max-model-len", "512", "--host", HOST]
        command += ["--enable-server-load-tracking", *arguments]
        super().__init__(command, log, program_environment(), log.parent)

    def until_healthy(self) -> FakeEngine:
        eventually(lambda: call(self.port, "/health").status == 200, f"healthy: {self.log}")
        return self

    def set_faults(self, **settings: object) -> None:
        answer = call(self.port, "/fake/faults", settings)
        assert answer.status == 200, answer.text


class Worker(Program):
    """The launcher over the fake engine, with times short enough for tests."""

    def __init__(
        self,
        model: Path,
        folder: Path,
        *,
        checksums: Mapping[str, str] | None = None,
        settings: Mapping[str, object] | None = None,
        engine_arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        raw_config: str | None = None,
        launcher: Path = LAUNCHER,
    ) -> None:
        folder.mkdir()
        self.engine_port = closed_port()
        self.port = closed_port()
        self.termination_log = folder / "termination-log"
        self.termination_log.touch()
        config: dict[str, object] = {
            "schemaVersion": 1,
            "model": {
                "kind": "path",
                "path": str(model),
                "servedName": "chat",
                "checksums": dict(checksums or {}),
            },
            "engine": {"maxModelLen": 512, "extraArgs": list(engine_arguments)},
            "listenHost": HOST,
            "enginePort": self.engine_port,
            "launcherPort": self.port,
            "drainWaitSeconds": 0.4,
            "shutdownTimeoutSeconds": 10,
            "killMarginSeconds": 1,
            "idleProbe": {
                "intervalSeconds": 0.1,
                "failures": 3,
                "timeoutSeconds": 0.5,
                "busyIntervalSeconds": 0.2,
            },
            **dict(settings or {}),
        }
        file = folder / "launcher.json"
        file.write_text(json.dumps(config) if raw_config is None else raw_config, encoding="utf-8")
        super().__init__(
            [
                *prefix,
                *(sys.executable, str(launcher), "run", "--config", str(file)),
                *("--termination-log", str(self.termination_log)),
            ],
            folder / "log",
            program_environment(**dict(environment or {})),
            folder,
        )

    def until_ready(self) -> Worker:
        eventually(lambda: self.ready or not self.running, "ready or dead")
        assert self.ready, self.log
        return self

    @property
    def ready(self) -> bool:
        return call(self.port, "/readyz").status == 200

    def why_not_ready(self) -> str:
        answer = call(self.port, "/readyz")
        return answer.text if answer.status == 503 else ""

    def set_faults(self, **settings: object) -> None:
        answer = call(self.engine_port, "/fake/faults", settings)
        assert answer.status == 200, answer.text

    def metric(self, name: str) -> float:
        page = call(self.port, "/metrics").text
        match = re.search(rf"^llmrollouts_launcher_{re.escape(name)} (\S+)$", page, re.MULTILINE)
        assert match is not None, page
        return float(match.group(1))

    @property
    def last_words(self) -> str:
        return self.termination_log.read_text(encoding="utf-8")

    def engine_processes(self) -> list[int]:
        """Living processes whose command line names this worker's engine port."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.process.pid:
                continue
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self.engine_port).encode() in command:
                found.append(int(entry.name))
        return found

    def kill(self) -> None:
        engines = self.engine_processes()
        super().kill()
        for pid in engines:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


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
