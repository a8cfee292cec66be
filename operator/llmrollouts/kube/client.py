"""The adapter of the Kubernetes ports over the official asynchronous client.

Sends plain objects and nothing else: no discovery, no cache, no typed models, no retries (the
controller decides those), except once after a 401 with a credential read anew, and a list that
starts over when its continue token has expired. Every request has a time-out. Called by the
controller, the elector, the certificates and the command line.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client.rest import RESTClientObject

from llmrollouts.api.labels import FIELD_MANAGER
from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.answers import error_of, error_of_apply, error_of_patch
from llmrollouts.kube.connection import BEARER, Connection, NoConnection
from llmrollouts.kube.encoding import encode
from llmrollouts.kube.port import LLM_DEPLOYMENT, Kind, NotFound, Rejected, Transient

LOG: Final = logging.getLogger(__name__)

# (verb, kind, HTTP code or 0 for no answer, seconds)
OnRequest = Callable[[str, str, int, float], None]

CONNECTIONS: Final = 32  # measured: bench/results/kube_client.md
PAGE: Final = 200  # objects in one answer of a list: decoding one must not take long
LIST_ATTEMPTS: Final = 3
# Seconds. A write of status is on the way to a rollback: better to fail and to decide again.
REQUEST: Final = aiohttp.ClientTimeout(total=10.0, sock_connect=5.0)
STATUS: Final = aiohttp.ClientTimeout(total=5.0, sock_connect=3.0)
LISTING: Final = aiohttp.ClientTimeout(total=30.0, sock_connect=5.0)

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_WARNINGS_KEPT: Final = 200
_USER_AGENT: Final = "llm-rollouts"
_JSON: Final = "application/json"
_JSON_PATCH: Final = "application/json-patch+json"
_APPLY: Final = "application/apply-patch+yaml"
_MANAGER: Final = urlencode({"fieldManager": FIELD_MANAGER})
# Strict: a field that the server does not know is refused, not dropped in silence.
_CREATE: Final = f"{_MANAGER}&fieldValidation=Strict"
_FORCE_APPLY: Final = f"{_MANAGER}&force=true&fieldValidation=Strict"


class KubeClient:
    """Reader, Writer and StatusWriter over HTTP. Close it, or use ``async with``.

    Raises the port's errors only; cancellation passes through. One client holds at most
    ``connections`` connections; whoever must never queue behind others (the elector) has its own.
    """

    def __init__(
        self,
        connection: Connection,
        on_request: OnRequest | None = None,
        connections: int = CONNECTIONS,
    ) -> None:
        self._connection = connection
        self._on_request = on_request
        self._host: str = connection.configuration.host.rstrip("/")
        self._warned: set[str] = set()
        configuration = connection.configuration
        configuration.connection_pool_maxsize = connections
        configuration.client_session_kwargs = {
            # A proxy is taken from the kubeconfig only. Looking through the environment and
            # ~/.netrc again for each request is slow, and a pod's API server is never behind one.
            "trust_env": False,
            "cookie_jar": aiohttp.DummyCookieJar(),
        }
        self._rest = RESTClientObject(configuration)
        self._route: dict[str, Any] = {
            name: value
            for name, value in (
                ("server_hostname", configuration.tls_server_name),
                ("proxy", self._rest.proxy),
                ("proxy_headers", self._rest.proxy_headers),
            )
            if value
        }

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._rest.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        return await self._ask(_Request("get", "GET", kind, namespace, name))

    async def list(
        self, kind: Kind, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> Sequence[Manifest]:
        selector = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        attempt = 1
        while True:
            try:
                return await self._pages(kind, namespace, selector)
            except _ContinueExpired as error:
                # The pages must be of one moment: start over, never join what was read before.
                if attempt == LIST_ATTEMPTS:
                    raise Transient(str(error)) from error
                attempt += 1

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        namespace, name = _key(manifest)
        return await self._ask(
            _Request("create", "POST", kind, namespace, name, query=_CREATE, body=manifest)
        )

    async def apply(self, kind: Kind, manifest: Manifest) -> Manifest:
        namespace, name = _key(manifest)
        request = _Request("apply", "PATCH", kind, namespace, name, query=_FORCE_APPLY)
        return await self._ask(replace(request, body=manifest, content_type=_APPLY))

    async def patch(
        self, kind: Kind, namespace: str, name: str, operations: Sequence[Manifest]
    ) -> Manifest:
        request = _Request("patch", "PATCH", kind, namespace, name, query=_MANAGER)
        return await self._ask(replace(request, body=[*operations], content_type=_JSON_PATCH))

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str | None = None) -> None:
        options: Manifest = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
        }
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self._ask(_Request("delete", "DELETE", kind, namespace, name, body=options))
        except NotFound:
            return

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        return await self._ask(_replacement("replace", kind, manifest))

    async def replace_status(self, kind: Kind, manifest: Manifest) -> Manifest:
        request = _replacement("replace_status", kind, manifest)
        return await self._ask(replace(request, subresource="/status", limit=STATUS))

    async def _pages(self, kind: Kind, namespace: str | None, selector: str) -> Sequence[Manifest]:
        items: list[Manifest] = []
        query = {"limit": str(PAGE)}
        if selector:
            query["labelSelector"] = selector
        while True:
            request = _Request("list", "GET", kind, namespace, "", query=urlencode(query))
            page = await self._ask(replace(request, limit=LISTING))
            for item in page.get("items") or []:
                # The server leaves these two out of the items of its own kinds' lists.
                item.setdefault("apiVersion", kind.api_version)
                item.setdefault("kind", kind.kind)
                if kind is not LLM_DEPLOYMENT:
                    # Who wrote which field of a child is asked by nobody, and is most of what a
                    # list of a thousand children would hold in memory.
                    item["metadata"].pop("managedFields", None)
                items.append(item)
            more = (page.get("metadata") or {}).get("continue")
            if not more:
                return items
            query["continue"] = more

    async def _ask(self, request: _Request) -> Manifest:
        path = request.path()  # checked before anything is sent
        code, headers, data = await self._send(request, path)
        if code == 401:
            LOG.warning("Read the credential again: the API server refused it")
            try:
                await self._connection.refresh()
            except NoConnection as error:
                raise Transient(f"{request.action}: 401: {error}") from error
            code, headers, data = await self._send(request, path)
        if "Warning" in headers:
            self._warn(headers.getall("Warning"), request.action)
        if 200 <= code < 300:
            try:
                answer = json.loads(data)
            except ValueError as error:
                raise Transient(f"{request.action}: the answer is not JSON: {error}") from error
            if not isinstance(answer, dict):
                raise Transient(f"{request.action}: the answer is not an object")
            return answer
        if request.verb == "list" and code == 410 and "continue=" in request.query:
            raise _ContinueExpired(str(error_of(request.action, code, headers, data)))
        to_error = {"patch": error_of_patch, "apply": error_of_apply}.get(request.verb, error_of)
        raise to_error(request.action, code, headers, data)

    def _session(self) -> aiohttp.ClientSession:
        """The official client's own session: its TLS, its proxy; only the bytes are ours."""
        if self._rest.pool_manager is None:
            self._rest.pool_manager = self._rest._create_pool_manager()
        session: aiohttp.ClientSession = self._rest.pool_manager
        return session

    async def _send(self, request: _Request, path: str) -> tuple[int, Any, bytes]:
        headers = {"Accept": _JSON, "User-Agent": _USER_AGENT, "Content-Type": request.content_type}
        credential = await self._connection.configuration.get_api_key_with_prefix(BEARER)
        if credential:
            headers["Authorization"] = credential
        url = f"{self._host}{path}?{request.query}" if request.query else f"{self._host}{path}"
        action = request.action
        started = time.monotonic()
        code = 0
        try:
            answer = await self._session().request(
                request.method,
                url,
                headers=headers,
                data=None if request.body is None else encode(request.body),
                timeout=request.limit,
                **self._route,
            )
            data: bytes = await answer.read()
            code = answer.status
        except TimeoutError as error:
            waited = time.monotonic() - started
            raise Transient(f"{action}: no answer within {waited:.1f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(f"{action}: no connection: {error or type(error).__name__}") from error
        finally:
            if self._on_request is not None:
                seconds = time.monotonic() - started
                self._on_request(request.verb, request.kind.kind, code, seconds)
        return code, answer.headers, data

    def _warn(self, warnings: Sequence[str], action: str) -> None:
        for warning in warnings:
            if warning not in self._warned and len(self._warned) < _WARNINGS_KEPT:
                self._warned.add(warning)
                LOG.warning("The API server warned", extra={"action": action, "warning": warning})


@dataclass(frozen=True, slots=True)
class _Request:
    """One request. ``limit``: its time-outs. ``query``: encoded already."""

    verb: str
    method: str
    kind: Kind
    namespace: str | None
    name: str
    subresource: str = ""
    query: str = ""
    body: Manifest | list[Manifest] | None = None
    content_type: str = _JSON
    limit: aiohttp.ClientTimeout = REQUEST

    @property
    def action(self) -> str:
        """What is asked, for messages: ``apply Deployment prod/chat-abc``."""
        where = f" {self.namespace or '*'}/{self.name or '*'}"
        return f"{self.verb.replace('_', ' ')} {self.kind.kind}{where}"

    def path(self) -> str:
        """The path; raises Rejected for names that would address something else."""
        collection = collection_path(self.kind, self.namespace)
        if self.verb == "list":
            return collection
        # An empty name would address the whole collection, ".." another one.
        if not _NAME.fullmatch(self.name):
            raise Rejected(f"{self.action}: {self.name!r} is no name that Kubernetes accepts")
        return (
            collection if self.verb == "create" else f"{collection}/{self.name}{self.subresource}"
        )


class _ContinueExpired(Exception):
    """410 in the middle of a paged list."""


def collection_path(kind: Kind, namespace: str | None) -> str:
    """The path of all objects of a kind, in one namespace or (None) in all."""
    root = "/api" if "/" not in kind.api_version else "/apis"
    if namespace is None:
        return f"{root}/{kind.api_version}/{kind.plural}"
    if not _NAME.fullmatch(namespace):
        raise Rejected(f"{kind.kind}: {namespace!r} is no name of a namespace")
    return f"{root}/{kind.api_version}/namespaces/{namespace}/{kind.plural}"


def _replacement(verb: str, kind: Kind, manifest: Manifest) -> _Request:
    # Without a version the server overwrites whatever is there: that is never wanted here.
    if not manifest["metadata"].get("resourceVersion"):
        raise ValueError("a replaced object needs the metadata.resourceVersion that was read")
    namespace, name = _key(manifest)
    return _Request(verb, "PUT", kind, namespace, name, query=_MANAGER, body=manifest)


def _key(manifest: Manifest) -> tuple[str, str]:
    metadata = manifest["metadata"]
    return metadata["namespace"], metadata["name"]
