"""The engine as a child process: how it starts, how it is told to stop, how its end is noticed.

The child leads a process group of its own: SIGTERM goes to the leader alone (vLLM stops its own
helpers in order), SIGKILL to the whole group. As PID 1 the launcher also inherits orphans, so one
reaper collects every dead child; nothing else in the launcher may wait for processes.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .config import Config, Model
from .engine_arguments import make_serve_arguments
from .failure import BAD_CONFIGURATION, ENGINE_MISSING, Failure, exit_code_of
from .output import Pump, Tail

log = logging.getLogger("launcher")

# Doors and detours that must stay shut in a worker, whatever the image's environment says.
REMOVED_ENVIRONMENT = (
    "VLLM_SERVER_DEV_MODE",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_USE_RUST_FRONTEND",
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
)

TAP_FOLDER = Path(__file__).resolve().parent / "tap"


def find_engine(model: Model) -> list[str]:
    """The start of the command line, up to and including the model; `Failure(69)` without vLLM."""
    executable = shutil.which("vllm")
    if executable is not None:
        return [executable, "serve", model.location]
    if importlib.util.find_spec("vllm") is not None:
        module = "vllm.entrypoints.openai.api_server"
        return [sys.executable, "-m", module, "--model", model.location]
    raise Failure(
        ENGINE_MISSING,
        "this image has no vllm: there is no executable of that name on PATH and Python finds no "
        "such module; check engine.image",
    )


def make_command(config: Config, *, tapped: bool) -> list[str]:
    return find_engine(config.model) + make_serve_arguments(config, tapped=tapped)


def make_environment(
    environment: Mapping[str, str], tap: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The engine's environment; `Failure(64)` when it would lock the launcher out.

    tap: the variables by which the tap finds the launcher; None when the engine runs none.
    """
    if environment.get("VLLM_API_KEY"):
        raise Failure(
            BAD_CONFIGURATION,
            "VLLM_API_KEY is set: workers are reached through the gateway only and the idle probe "
            "has no key; ask for keys at the gateway and remove the variable",
        )
    made = {name: value for name, value in environment.items() if name not in REMOVED_ENVIRONMENT}
    port = made.get("VLLM_PORT")
    if port is not None and not port.isdigit():
        # A Service called `vllm` makes Kubernetes set this to an address, and vLLM dies of it.
        log.warning("Removed VLLM_PORT from the engine's environment, it is not a number")
        del made["VLLM_PORT"]
    # The root file system is read-only and the user may have no name: give libraries a home.
    if not os.access(made.get("HOME", "/"), os.W_OK):
        made["HOME"] = tempfile.gettempdir()
    made.setdefault("USER", "llmrollouts")
    made.setdefault("LOGNAME", made["USER"])
    if tap is not None:
        made.update(tap)
        others = made.get("PYTHONPATH")
        made["PYTHONPATH"] = str(TAP_FOLDER) + (os.pathsep + others if others else "")
    return made


class EngineProcess:
    """The running engine; `ended` resolves to its exit code."""

    def __init__(self, process: subprocess.Popen[bytes], tail: Tail, pumps: list[Pump]) -> None:
        self._process = process
        self._pumps = pumps
        self.tail = tail
        self.pid = process.pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def running(self) -> bool:
        return not self.ended.done()

    def record_end(self, wait_status: int) -> None:
        """Called by the reaper only."""
        # Popen must not wait for this process again: it has been collected.
        self._process.returncode = (
            os.WEXITSTATUS(wait_status) if wait_status & 0x7F == 0 else -(wait_status & 0x7F)
        )
        if not self.ended.done():
            self.ended.set_result(exit_code_of(wait_status))

    def terminate(self) -> None:
        if self.running:
            os.kill(self.pid, signal.SIGTERM)

    def kill_group(self) -> None:
        """SIGKILL to everything that the engine started, also after its leader's end."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def join_output(self, timeout: float) -> None:
        """Wait until the last lines have been forwarded (bounded, seconds for each stream)."""
        for pump in self._pumps:
            pump.join(timeout)


def start_engine(
    command: Sequence[str], environment: Mapping[str, str], stdout: int = 1, stderr: int = 2
) -> EngineProcess:
    """Start the child; `Failure(69)` when the executable cannot be run."""
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    try:
        process = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out_write,
            stderr=err_write,
            start_new_session=True,
            cwd=Path("/"),
        )
    except OSError as error:
        os.close(out_read)
        os.close(err_read)
        raise Failure(
            ENGINE_MISSING, f"cannot run {command[0]}: {error.strerror}; check engine.image"
        ) from error
    finally:
        os.close(out_write)
        os.close(err_write)
    tail = Tail()
    pumps = [Pump(out_read, stdout, tail), Pump(err_read, stderr, tail)]
    for pump in pumps:
        pump.start()
    return EngineProcess(process, tail, pumps)


class Reaper:
    """Collects every dead child, as PID 1 must, and tells the engine about its own."""

    def __init__(self) -> None:
        self._engine: EngineProcess | None = None
        self.collected = 0

    def watch(self, engine: EngineProcess) -> None:
        self._engine = engine
        self.collect()

    def collect(self) -> None:
        """Called on SIGCHLD; one signal can stand for several deaths."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.collected += 1
            if self._engine is not None and pid == self._engine.pid:
                self._engine.record_end(status)
