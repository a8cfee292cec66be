"""A real Prometheus as a process: the binary of the Debian package, with a configuration of ours.

Everything it has lies in a folder of the test; the system's service is left alone. It ends with the
process that started it, also when that is killed. Used by ``prometheus`` beside the cluster and by
the tests on loopback (tests/metrics/prometheus_process.py).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from e2e.harness.processes import closed_port, find_program, stop_process

START_SECONDS = 60.0


class PrometheusProcess:
    """configuration: what it scrapes; web: how it wants to be asked, as its --web.config.file.
    Raises MissingProgram."""

    def __init__(self, folder: Path, configuration: object, web: object, host: str) -> None:
        self.port = closed_port(host)
        self._log = folder / "prometheus.log"
        for name, content in (("prometheus.yml", configuration), ("web.yml", web)):
            (folder / name).write_text(yaml.safe_dump(content), encoding="utf-8")
        # The kernel ends it with this process, however it ends.
        self._command = [
            find_program("setpriv"),
            "--pdeathsig",
            "KILL",
            find_program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--web.config.file={folder / 'web.yml'}",
            f"--web.listen-address={host}:{self.port}",
            f"--storage.tsdb.path={folder / 'data'}",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, is_ready: Callable[[], bool]) -> None:
        """Until ``is_ready``; again after ``stop``, with the data that it had. Raises RuntimeError
        with its log."""
        with self._log.open("ab") as output:
            process = subprocess.Popen(self._command, stdout=output, stderr=output)
        self._process = process
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and process.poll() is None:
            if is_ready():
                return
            time.sleep(0.1)
        self.stop()
        told = self._log.read_text(encoding="utf-8")[-2000:]
        raise RuntimeError(f"Prometheus did not start:\n{told}")

    def stop(self) -> None:
        """Nobody listens on its port any more."""
        process, self._process = self._process, None
        if process is not None:
            stop_process(process)
