"""Questions to the running cluster, each answered yes or no, none of them ever raising for a
cluster that is merely not there yet."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import ssl
import struct
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from e2e.cluster import places as at
from e2e.cluster.configuration import SERVER

Json = dict[str, Any]
_TIMEOUT = 5.0


def answers(address: str) -> bool:
    """Whether a health address says 200, or a Unix socket takes a connection."""
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT)
            try:
                connection.connect(address.removeprefix("unix://"))
            except OSError:
                return False
            return True
    context = ssl.create_default_context()
    # Health only, over a link that exists on this machine alone: some of these programs sign
    # their certificates themselves.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _get(address, context) is not None


def get_object(path: str, pki: Path) -> Json | None:
    """An object from the API server as the cluster's admin; None when it cannot be had."""
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    body = _get(f"{SERVER}{path}", context)
    if body is None:
        return None
    loaded: Json = json.loads(body)
    return loaded


def _get(address: str, context: ssl.SSLContext) -> bytes | None:
    try:
        with urlopen(Request(address), timeout=_TIMEOUT, context=(  # noqa: S310 - our own addresses
            context if address.startswith("https") else None
        )) as response:  # fmt: skip
            return bytes(response.read()) if response.status == 200 else None
    except (URLError, OSError, http.client.HTTPException):
        return None


def node_is_ready(pki: Path, kubelet_age: float) -> bool:
    """Whether this kubelet, started `kubelet_age` seconds ago, has reported the node Ready.

    After a stop the store still holds the Ready of the time before: only a heartbeat that is
    younger than the kubelet counts.
    """
    node = get_object(f"/api/v1/nodes/{at.NODE_NAME}", pki)
    return node is not None and is_ready(node, newer_than=time.time() - kubelet_age)


def is_ready(node: Json, newer_than: float) -> bool:
    """The rule of node_is_ready, on the object itself; `newer_than` in seconds since 1970."""
    status = node.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "Ready" and condition["status"] == "True":
            beat = datetime.fromisoformat(condition["lastHeartbeatTime"].replace("Z", "+00:00"))
            return beat.timestamp() >= int(newer_than)  # heartbeats are told in whole seconds
    return False


def dns_answers(name: str = "kubernetes.default.svc.cluster.local") -> bool:
    """Whether the cluster's DNS gives an address for a Service, asked over its Service address."""
    query_id = secrets.randbelow(65536)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(1)
        try:
            connection.sendto(make_query(name, query_id), (at.DNS_ADDRESS, 53))
            answer = connection.recv(512)
        except OSError:
            return False
    got_id, flags, _, answers_count = struct.unpack(">HHHH", answer[:8])
    return bool(got_id == query_id and flags & 0x800F == 0x8000 and answers_count > 0)


def make_query(name: str, query_id: int) -> bytes:
    """A DNS question for an IPv4 address."""
    labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
    return struct.pack(">HHHHHH", query_id, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\x01\0\x01"
