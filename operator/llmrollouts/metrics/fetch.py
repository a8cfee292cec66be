"""Fetches one page of a worker: bounded in time and size, and never from anywhere but its address.

Whatever a worker does, it can neither hold up nor fill the operator. It decides nothing about what
it fetches. Used by ``tap`` and ``engine_reader``.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiohttp

from llmrollouts.api.labels import LAUNCHER_PORT
from llmrollouts.metrics.page import LONGEST_PAGE, PageError
from llmrollouts.metrics.port import Worker

TIME_OUT: Final = 0.8
_CHUNK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Fetched:
    """at: when the worker wrote it, on the asker's clock (the middle of the request)."""

    status: int
    body: bytes
    at: float


class PageFetcher:
    """Use and close it in one event loop; ``clock``: the loop's time."""

    def __init__(
        self,
        port: int = LAUNCHER_PORT,
        time_out: float = TIME_OUT,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._port = port
        self._time_out = time_out
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, worker: Worker, path: str) -> Fetched:
        """``path``: with its query. Raises PageError, within the time-out."""
        clock = self._clock or asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self._time_out):
                status, body = await self._ask(worker, path)
        except TimeoutError:
            raise PageError(f"{worker.name} did not answer within {self._time_out:g}s") from None
        except (aiohttp.ClientError, OSError) as error:
            told = f"{type(error).__name__}: {error}"[:200]
            raise PageError(f"{worker.name} cannot be reached: {told}") from error
        return Fetched(status, body, (began + clock()) / 2)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, worker: Worker, path: str) -> tuple[int, bytes]:
        url = f"http://{_host(worker)}:{self._port}{path}"
        async with self._open().get(url, allow_redirects=False) as answer:
            return answer.status, await _read_bounded(answer, worker)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=2),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
            )
        return self._session


async def _read_bounded(answer: aiohttp.ClientResponse, worker: Worker) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_chunked(_CHUNK):
        size += len(part)
        if size > LONGEST_PAGE:
            answer.close()
            raise PageError(f"{worker.name} answered more than {LONGEST_PAGE} bytes")
        parts.append(part)
    return b"".join(parts)


def _host(worker: Worker) -> str:
    try:
        address = ipaddress.ip_address(worker.address)
    except ValueError:
        raise PageError(f"{worker.name} has no address of a pod") from None
    return f"[{address}]" if address.version == 6 else str(address)
