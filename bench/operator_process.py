"""The real operator as a process of its own, and what can be read of it from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from e2e.harness.processes import closed_port, stop_process

NAMESPACE = "llm-rollouts-system"
READY_SECONDS = 120.0


@dataclass
class OperatorProcess:
    """The operator and its lives. Ports are free ones of loopback. restarts: how often it ended by
    itself. A starved machine that lets it lose its Lease has it begin anew in the same process."""

    command: Sequence[str]
    http_port: int
    xds_port: int
    log_file: Path
    restarts: int = -1

    def start(self) -> None:
        with self.log_file.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )
        self.restarts += 1

    async def supervise(self) -> None:
        """Start it again whenever it ends, as the kubelet does; until cancelled."""
        while True:
            await asyncio.sleep(0.5)
            if self.process.poll() is not None:
                self.start()

    def cpu_seconds(self) -> float:
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> dict[str, float]:
        """MiB: resident now, and the most ever."""
        lines = dict(line.split(":", 1) for line in self._proc("status").splitlines())
        return {
            "resident": int(lines["VmRSS"].split()[0]) / 1024,
            "peak": int(lines["VmHWM"].split()[0]) / 1024,
        }

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self.process.pid}/{name}").read_text()

    async def page(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.http_port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()

    async def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, as Prometheus writes them."""
        _, text = await self.page("/metrics")
        return {
            sample.name + "".join(f",{k}={v}" for k, v in sorted(sample.labels.items())): value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            for value in [sample.value]
        }

    async def wait_ready(self) -> None:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    if (await self.page("/readyz"))[0] == 200:
                        return
                await asyncio.sleep(0.1)

    async def settle(self, quiet: float, within: float) -> None:
        """Wait until no round has run for ``quiet`` seconds; raises TimeoutError."""
        loop = asyncio.get_running_loop()
        rounds, since = -1.0, loop.time()
        async with asyncio.timeout(within):
            while loop.time() - since < quiet:
                with contextlib.suppress(aiohttp.ClientError):  # between two lives
                    now = total(await self.metrics(), "llmrollouts_rounds_total")
                    if now != rounds:
                        rounds, since = now, loop.time()
                await asyncio.sleep(1.0)

    def tail(self) -> str:
        return self.log_file.read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        stop_process(self.process, 15)


def total(metrics: dict[str, float], name: str, *parts: str) -> float:
    """The sum of the samples of ``name`` whose labels hold all of ``parts`` (``k=v``)."""
    return sum(
        value
        for key, value in metrics.items()
        if key.split(",")[0] == name and all(f",{part}" in f"{key}," for part in parts)
    )


@contextlib.asynccontextmanager
async def start_operator(
    folder: Path, kubeconfig: Path, name: str
) -> AsyncIterator[OperatorProcess]:
    """Started, perhaps not ready yet."""
    http_port, xds_port = closed_port(), closed_port()
    command = [
        # The kernel ends it with this process, however that ends.
        *("setpriv", "--pdeathsig", "KILL"),
        str(Path(sys.executable).with_name("llm-rollouts-operator")),
        f"--pod-name={name}",
        f"--namespace={NAMESPACE}",
        f"--kubeconfig={kubeconfig}",
        "--launcher-image=localhost/llm-rollouts-worker:bench",
        "--engine-image-cpu=localhost/engine:bench",
        "--allow-tags",
        f"--http-port={http_port}",
        f"--xds-port={xds_port}",
    ]
    operator = OperatorProcess(command, http_port, xds_port, folder / f"{name}.log")
    operator.start()
    supervision = asyncio.create_task(operator.supervise())
    try:
        yield operator
    finally:
        supervision.cancel()
        operator.stop()
