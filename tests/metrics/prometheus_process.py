"""A real Prometheus on loopback, with a page of metrics that the test writes.

``start_prometheus`` starts the binary of the Debian package with its own configuration and data in
a folder of the test, scraping ``Page`` twice a second; the system's service is left alone. It ends
with the test process, also when that is killed.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import yaml

START_SECONDS = 60.0
SCRAPE = "500ms"


class MissingProgram(RuntimeError):
    """A program that `make setup` installs is not there."""


def find_program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MissingProgram(f"no {name}: run `make setup`, or apt-get install prometheus")
    return found


class Page:
    """What the scraped target answers; ``text`` None: HTTP 503, so that its series end."""

    def __init__(self) -> None:
        self.text: str | None = ""
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = page.text
                self.send_response(503 if text is None else 200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write((text or "").encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Not into the output of the tests."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True)
class Prometheus:
    """A running one. url: its base address."""

    url: str
    page: Page
    port: int


@dataclass(frozen=True)
class Guard:
    """What a secured one wants: files of a server certificate, whose authority also vouches for
    the clients, and one user (name: bcrypt of the password)."""

    folder: Path
    users: dict[str, str]


@contextlib.contextmanager
def start_prometheus(folder: Path, guard: Guard | None = None) -> Iterator[Prometheus]:
    """Ready to be asked. Raises MissingProgram, and AssertionError with its log."""
    program, setpriv = find_program("prometheus"), find_program("setpriv")
    page = Page()
    port = _free_port()
    _write(folder / "prometheus.yml", {
        "global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE},
        "scrape_configs": [
            {"job_name": "workers", "static_configs": [{"targets": [f"127.0.0.1:{page.port}"]}]}
        ],
    })  # fmt: skip
    _write(folder / "web.yml", {} if guard is None else {
        "tls_server_config": {
            "cert_file": str(guard.folder / "tls.crt"),
            "key_file": str(guard.folder / "tls.key"),
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_ca_file": str(guard.folder / "ca.crt"),
        },
        "basic_auth_users": guard.users,
    })  # fmt: skip
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                setpriv, "--pdeathsig", "KILL", program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--web.config.file={folder / 'web.yml'}",
                f"--web.listen-address=127.0.0.1:{port}",
                f"--storage.tsdb.path={folder / 'data'}",
            ],
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        _wait_until_ready(process, port, guard, log)
        yield Prometheus(f"{'https' if guard else 'http'}://localhost:{port}", page, port)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        page.close()


def _write(path: Path, content: object) -> None:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(
    process: subprocess.Popen[bytes], port: int, guard: Guard | None, log: Path
) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if _is_ready(port, guard):
            return
        time.sleep(0.1)
    raise AssertionError(f"Prometheus did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")


def _is_ready(port: int, guard: Guard | None) -> bool:
    """A guarded one is ready once it refuses us as it should."""
    context = None
    if guard is not None:
        context = ssl.create_default_context(cafile=str(guard.folder / "ca.crt"))
        context.load_cert_chain(guard.folder / "tls.crt", guard.folder / "tls.key")
    scheme = "http" if guard is None else "https"
    try:
        with urllib.request.urlopen(  # noqa: S310
            f"{scheme}://localhost:{port}/-/ready", timeout=2, context=context
        ):
            return True
    except urllib.error.HTTPError as error:
        with error:
            return error.code == 401
    except OSError:
        return False
