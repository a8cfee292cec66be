"""A real Prometheus on loopback, with a page of metrics that the test writes.

``start_prometheus`` starts it in a folder of the test, scraping ``Page`` twice a second.
"""

from __future__ import annotations

import contextlib
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from e2e.harness.prometheus_process import PrometheusProcess

SCRAPE = "500ms"


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
    """Ready to be asked. Raises MissingProgram, and RuntimeError with its log."""
    page = Page()
    configuration = {
        "global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE},
        "scrape_configs": [
            {"job_name": "workers", "static_configs": [{"targets": [f"127.0.0.1:{page.port}"]}]}
        ],
    }
    process = PrometheusProcess(folder, configuration, _make_web(guard), "127.0.0.1")
    try:
        process.start(lambda: _is_ready(process.port, guard))
        scheme = "https" if guard else "http"
        yield Prometheus(f"{scheme}://localhost:{process.port}", page, process.port)
    finally:
        process.stop()
        page.close()


def _make_web(guard: Guard | None) -> dict[str, object]:
    if guard is None:
        return {}
    return {
        "tls_server_config": {
            "cert_file": str(guard.folder / "tls.crt"),
            "key_file": str(guard.folder / "tls.key"),
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_ca_file": str(guard.folder / "ca.crt"),
        },
        "basic_auth_users": guard.users,
    }


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
