"""Lets a gateway pod go without cutting an answer: its container's preStop command.

Runs inside the gateway's container with the standard library only; the chart mounts this very file
beside the bootstrap (``python -m llmrollouts.traffic.bootstrap --file drain.py``). It tells the
proxy to fail its health check (the Service stops sending new connections, open ones are asked to
close) and returns when the last request has ended or the time is up; then the kubelet sends
SIGTERM, at which Envoy stops at once.
"""

from __future__ import annotations

import argparse
import sys
import time
import urllib.request

# What the Service's endpoints need to forget this pod everywhere.
_SETTLE = 5.0
_ACTIVE = "http.users.downstream_rq_active"


def ask(admin: str, method: str, path: str) -> str:
    """Call the admin interface. Raises OSError when it does not answer."""
    request = urllib.request.Request(f"{admin}{path}", method=method)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - loopback
        text: str = answer.read().decode()
        return text


def active_requests(admin: str) -> int:
    text = ask(admin, "GET", f"/stats?filter=^{_ACTIVE}$")
    return int(text.rpartition(":")[2] or 0)


def drain(admin: str, within: float, settle: float = _SETTLE) -> bool:
    """True when the last request ended in time."""
    ends_at = time.monotonic() + within
    ask(admin, "POST", "/healthcheck/fail")
    time.sleep(min(settle, within))
    while time.monotonic() < ends_at:
        if active_requests(admin) == 0:
            return True
        time.sleep(0.5)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description="Drain the gateway in this pod.")
    parser.add_argument("--admin", default="http://127.0.0.1:9901")
    parser.add_argument("--within", type=float, default=290.0, help="seconds")
    parser.add_argument("--settle", type=float, default=_SETTLE, help="seconds")
    args = parser.parse_args()
    if not drain(args.admin, args.within, args.settle):
        sys.exit(f"requests were still running after {args.within:g} s; they will be cut")


if __name__ == "__main__":
    main()
