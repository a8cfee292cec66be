"""A very small HTTP client for the engine on this container's own loopback.

HTTP/1.0 with one request a connection: the answer is whatever comes before the end, no chunking.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

MAX_ANSWER_BYTES = 8 * 1024 * 1024


class RequestFailed(Exception):
    """No usable answer: refused, cut, or not HTTP. The message says which."""


class RequestTimedOut(RequestFailed):
    """No whole answer within the time allowed."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> object:
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise RequestFailed(f"the answer is not JSON: {error}") from error


async def request(
    host: str,
    port: int,
    path: str,
    *,
    timeout: float,
    body: object = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """GET `path`, or POST it when there is a JSON `body`; `timeout` seconds for all of it."""
    try:
        return await asyncio.wait_for(_exchange(host, port, path, body, headers or {}), timeout)
    except asyncio.TimeoutError as error:
        raise RequestTimedOut(f"no answer to {path} within {timeout:g} s") from error
    except (OSError, EOFError, ValueError) as error:
        raise RequestFailed(f"{path}: {error or type(error).__name__}") from error


async def _exchange(
    host: str, port: int, path: str, body: object, headers: dict[str, str]
) -> Answer:
    payload = b"" if body is None else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.0", f"Host: {host}:{port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + payload)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        parts = head.split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/"):
            raise ValueError("the answer is not HTTP")
        status = int(parts[1])
        received = bytearray()
        while True:
            chunk = await reader.read(65536)
            if not chunk:
                return Answer(status, bytes(received))
            received += chunk
            if len(received) > MAX_ANSWER_BYTES:
                raise ValueError("the answer is too large")
    finally:
        writer.close()
