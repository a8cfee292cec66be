"""Programs that a test starts on this machine: a port for one, and its end.

For tests of both kinds and for benchmarks; those of the cluster's node are kept elsewhere
(e2e/cluster/processes.py), because they outlive who started them.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess

STOP_SECONDS = 10.0


class MissingProgram(RuntimeError):
    """A program that `make setup` installs is not there."""


def find_program(name: str, path: str | None = None) -> str:
    """Where it is. ``path``: as PATH, which is the default. Raises MissingProgram."""
    found = shutil.which(name, path=path)
    if found is None:
        raise MissingProgram(f"{name} is missing: run `make setup`")
    return found


def closed_port(host: str = "127.0.0.1") -> int:
    """A port at which nobody listens; outside the range from which the system takes ports for
    connections, so that it stays free until the test uses it."""
    return closed_ports(1, host)[0]


def closed_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """So many of them, no two the same."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            port = random.randrange(20_000, 32_000)
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                ports.append(port)
        return ports


def stop_process(
    process: subprocess.Popen[bytes],
    seconds: float = STOP_SECONDS,
    how: signal.Signals = signal.SIGTERM,
) -> None:
    """Asked to end, also where a test has frozen it, and killed when it does not in ``seconds``."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)
