"""Reads the taps over HTTP: the adapter behind ``SampleReader``.

Only addresses of pods are asked, on the launcher's port, without redirects or a proxy; an answer
is bounded in time and size, so that a worker can neither hold up nor fill the operator. It decides
nothing about what it reads. Used by controller/gate_engine.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Final

import aiohttp

from llmrollouts.api.labels import LAUNCHER_PORT
from llmrollouts.metrics.page import LONGEST_PAGE, NoTap, Page, PageError, make_parameters
from llmrollouts.metrics.page import parse_page as _parse_page
from llmrollouts.metrics.port import Query, Reading, Worker

TIME_OUT: Final = 0.8
_CHUNK: Final = 1 << 16


class TapReader:
    """Implements SampleReader. Use and close it in one event loop; ``clock``: the loop's time."""

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

    async def read(self, worker: Worker, query: Query) -> Reading:
        clock = self._clock or asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self._time_out):
                body = await self._fetch(worker, query)
        except TimeoutError:
            raise PageError(f"{worker.name} did not answer within {self._time_out:g}s") from None
        except (aiohttp.ClientError, OSError) as error:
            told = f"{type(error).__name__}: {error}"[:200]
            raise PageError(f"{worker.name} cannot be reached: {told}") from error
        ended = clock()
        return Reading(self._parse(body, worker, query), (began + ended) / 2)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _parse(self, body: bytes, worker: Worker, query: Query) -> Page:
        return _parse_page(body, worker.name, query.measurement)

    async def _fetch(self, worker: Worker, query: Query) -> bytes:
        parameters = make_parameters(query.measurement, query.since, query.boot)
        url = f"http://{_host(worker)}:{self._port}/samples"
        session = self._open()
        async with session.get(
            f"{url}?{parameters}" if parameters else url, allow_redirects=False
        ) as answer:
            if answer.status == 404:
                raise NoTap(f"{worker.name} has no tap: its launcher is older than this operator")
            body = await _read_bounded(answer, worker)
            if answer.status != 200:
                # What a worker says is not repeated: it may hold anything.
                raise PageError(f"{worker.name} answered {answer.status} instead of samples")
            return body

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
