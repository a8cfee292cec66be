"""A bare asynchronous client for benchmarks: the operator's own one must not be its judge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from tests.apiserver import ApiServer

Json = dict[str, Any]
USER_AGENT = "llm-rollouts-bench"
MERGE_PATCH = "application/merge-patch+json"


class Refused(RuntimeError):
    """The API server's answer was no success; ``status`` is its HTTP code."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:300]}")
        self.status = status


class KubeApi:
    """Objects by path, as the administrator."""

    def __init__(self, server: ApiServer, session: aiohttp.ClientSession) -> None:
        self._url = server.url
        self._session = session

    async def request(
        self, method: str, path: str, body: Json | None = None, content_type: str | None = None
    ) -> Json:
        """The decoded answer; raises Refused."""
        headers = {"Content-Type": content_type or "application/json"}
        data = None if body is None else json.dumps(body).encode()
        async with self._session.request(
            method, self._url + path, data=data, headers=headers
        ) as answer:
            text = await answer.text()
            if answer.status >= 300:
                raise Refused(answer.status, f"{method} {path}: {text}")
            decoded: Json = json.loads(text)
            return decoded

    async def text(self, path: str) -> str:
        async with self._session.get(self._url + path) as answer:
            return await answer.text()

    async def watch(self, path: str, selector: str) -> AsyncIterator[Json]:
        """Events of a collection, what is there already first; lists again when a watch ends."""
        while True:
            found = await self.request("GET", f"{path}?labelSelector={selector}")
            for item in found.get("items") or []:
                yield {"type": "ADDED", "object": item}
            version = found["metadata"]["resourceVersion"]
            url = (
                f"{self._url}{path}?watch=true&labelSelector={selector}&resourceVersion={version}"
                "&timeoutSeconds=600"
            )
            async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=None)) as answer:
                if answer.status != 200:
                    raise Refused(answer.status, await answer.text())
                async for line in answer.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        break
                    yield event


@contextlib.asynccontextmanager
async def open_api(server: ApiServer, connections: int = 100) -> AsyncIterator[KubeApi]:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=connections, ssl=ssl.create_default_context(cafile=str(server.ca_file))
        ),
        headers={"Authorization": f"Bearer {server.token}", "User-Agent": USER_AGENT},
        timeout=aiohttp.ClientTimeout(total=60),
        # Lines of a watch carry whole objects.
        read_bufsize=2**22,
    )
    async with session:
        yield KubeApi(server, session)
        # Transports of TLS connections need a moment to close.
        await asyncio.sleep(0.1)
