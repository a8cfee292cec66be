"""The questions that decide whether the cluster is up."""

from __future__ import annotations

import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from e2e.cluster import probes

BEAT = 1_800_000_000.0  # 2027-01-15T08:00:00Z


def node(status: str = "True", beat: str = "2027-01-15T08:00:00Z") -> probes.Json:
    condition = {"type": "Ready", "status": status, "lastHeartbeatTime": beat}
    return {"status": {"conditions": [{"type": "DiskPressure", "status": "True"}, condition]}}


def test_a_node_with_a_heartbeat_of_this_kubelet_is_ready() -> None:
    assert probes.is_ready(node(), newer_than=BEAT - 1)
    assert probes.is_ready(node(), newer_than=BEAT + 0.9)  # the heartbeat has whole seconds


def test_the_ready_of_a_kubelet_before_a_stop_does_not_count() -> None:
    assert not probes.is_ready(node(), newer_than=BEAT + 5)


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_a_node_that_says_it_is_not_ready_is_not(status: str) -> None:
    assert not probes.is_ready(node(status), newer_than=BEAT - 1)


def test_a_node_without_status_is_not_ready() -> None:
    assert not probes.is_ready({}, newer_than=0)


def test_a_dns_question_is_well_formed() -> None:
    query = probes.make_query("a.bc", 0x1234)
    assert query[:2] == b"\x12\x34"
    assert struct.unpack(">H", query[4:6]) == (1,)
    assert query[12:] == b"\x01a\x02bc\x00\x00\x01\x00\x01"


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/well" else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


def test_only_200_is_healthy() -> None:
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        try:
            assert probes.answers(f"{base}/well")
            assert not probes.answers(f"{base}/ill")
        finally:
            server.shutdown()
            thread.join()
    assert not probes.answers(f"{base}/well")


def test_a_socket_file_without_a_listener_does_not_answer(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        assert probes.answers(f"unix://{path}")
    assert not probes.answers(f"unix://{path}")
    assert not probes.answers(f"unix://{tmp_path / 'absent.sock'}")
