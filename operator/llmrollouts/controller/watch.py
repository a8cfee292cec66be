"""kopf as the watch layer, and nothing else of kopf.

Every event becomes at most a nudge for one key; what it carries is thrown away, so nothing is ever
decided from a watch (R31). kopf runs inside our event loop with everything switched off that
writes, pauses or scans: no peering, no events, no finalizers, no annotations. A watch that ends
ends the process (R13). It decides which events are news. Called by controller/operator.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final, Protocol, cast

import aiohttp
import kopf
from kopf._core.reactor.inventory import ResourceMemories

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.controller.keys import Key, read_key
from llmrollouts.controller.versions import Versions
from llmrollouts.controller.watch_age import WatchAges
from llmrollouts.kube.port import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    LLM_DEPLOYMENT,
    POD,
    Kind,
)

LOG: Final = logging.getLogger(__name__)

WATCHED: Final = (LLM_DEPLOYMENT, CONTROLLER_REVISION, DEPLOYMENT, POD, CONFIG_MAP)
_KINDS: Final = {kind.plural: kind for kind in WATCHED}
# The API server ends each watch after this many seconds: a watch that is not asked for again in
# time is dead, whatever its connection says.
SERVER_TIMEOUT: Final = 240
# Nothing but the metadata of an event is looked at, so nothing else is asked for: five thousand
# whole objects, listed at once, would be the largest thing in this process.
_PARTIAL: Final = "application/json;as={};g=meta.k8s.io;v=v1,application/json"
# Objects in one answer of a list: what one page took of memory is free again for the next.
_PAGE: Final = 200
_CONNECT_TIMEOUT: Final = 10
_REQUEST_TIMEOUT: Final = 30


class Login(Protocol):
    """How to reach the API server now; asked again when it refuses the credential."""

    def __call__(self) -> kopf.ConnectionInfo: ...


class _Patience:
    """Pauses between attempts, without end: while the API server is away the watches wait, and
    whether this process should go on waiting is the health page's to say."""

    def __iter__(self) -> Iterator[float]:
        pause = 0.2
        while True:
            yield pause
            pause = min(pause * 2, 5.0)


class _Forgetful(ResourceMemories):
    """kopf keeps a record of each object, for handlers of a sort that this project does not have.
    With five thousand objects that is 20 MiB; kopf takes another store, but names it nowhere."""

    async def recall(self, raw_body: Any, **how: Any) -> Any:
        return await super().recall(raw_body, **{**how, "ephemeral": True})


class Watch:
    """``nudge`` is called for each key about which there is news, ``commanded`` instead where an
    LLMDeployment carries a command; ``on_started`` once the watches are under way."""

    def __init__(
        self,
        login: Login,
        namespaces: Sequence[str] | None,
        nudge: Callable[[Key], None],
        versions: Versions,
        ages: WatchAges,
        commanded: Callable[[Key], None] | None = None,
        on_started: Callable[[], None] = lambda: None,
    ) -> None:
        self._login = login
        self._namespaces = namespaces
        self._nudge = nudge
        self._versions = versions
        self._ages = ages
        self._commanded = nudge if commanded is None else commanded
        self._on_started = on_started

    async def run(self) -> None:
        """Watch until cancelled or stopped. Returning by itself means that a watch has died."""
        tasks = await kopf.spawn_tasks(
            registry=self._make_registry(),
            settings=make_settings(),
            standalone=True,
            memories=_Forgetful(),
            # Unused without peering; left out, kopf looks for a user name that a pod lacks.
            identity=cast("Any", "llm-rollouts"),
            clusterwide=self._namespaces is None,
            namespaces=self._namespaces or (),
        )
        # kopf has taken the signals; they belong to the whole process, not to the watches.
        self._on_started()
        try:
            await _first_end(tasks)
        finally:
            for task in tasks:
                task.cancel()

    def notice(self, kind: Kind, event: Manifest) -> None:
        """Take in one event of the watch."""
        manifest = event["object"]
        metadata = manifest.get("metadata") or {}
        self._ages.note_event(kind, str(metadata.get("resourceVersion", "")))
        # Lists leave the kind out; the watch knows what it asked for.
        key = read_key({**manifest, "kind": kind.kind})
        if key is None:
            return
        if event.get("type") != "DELETED" and not self._versions.is_news(key, manifest):
            return
        if kind is LLM_DEPLOYMENT and labels.COMMAND in (metadata.get("annotations") or {}):
            self._commanded(key)
        else:
            self._nudge(key)

    def take_in(self, plural: str, listed: Sequence[Manifest]) -> None:
        """What kopf has listed: at the start and whenever a watch has to begin anew."""
        for manifest in listed:
            self.notice(_KINDS[plural], {"type": None, "object": manifest})

    def _make_handler(self, kind: Kind) -> Any:
        # Not a plain function: kopf would call that in a thread.
        async def on_event(event: Manifest, **_: Any) -> None:
            self.notice(kind, event)

        return on_event

    def _make_registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        async def login(**_: Any) -> kopf.AiohttpSession:
            info = self._login()
            return kopf.AiohttpSession(
                server=info.server, aiohttp_session=make_session(info, self._ages, self.take_in)
            )

        kopf.on.login(registry=registry, id="login")(login)
        for kind in WATCHED:
            group, _, version = kind.api_version.rpartition("/")
            decorate = kopf.on.event(group, version, kind.plural, registry=registry, id=kind.plural)
            decorate(self._make_handler(kind))
        return registry


async def _first_end(tasks: Collection[asyncio.Task[Any]]) -> None:
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            raise error


def make_settings() -> kopf.OperatorSettings:
    """Only the watches are left of kopf."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.networking.request_timeout = _REQUEST_TIMEOUT
    settings.networking.connect_timeout = _CONNECT_TIMEOUT
    settings.networking.error_backoffs = _Patience()
    settings.watching.server_timeout = SERVER_TIMEOUT
    settings.watching.connect_timeout = _CONNECT_TIMEOUT
    settings.watching.reconnect_backoff = 0.2
    settings.watching.chunk_size = _PAGE
    # An object's queue and task go when it has been silent for this long; a later event makes new
    # ones.
    settings.queueing.idle_timeout = 0.05
    settings.queueing.exit_timeout = 0.2
    settings.process.ultimate_exiting_timeout = None
    for kind in WATCHED:
        if kind is not LLM_DEPLOYMENT:
            group, _, version = kind.api_version.rpartition("/")
            settings.watching.label_selectors[group, version, kind.plural] = labels.DEPLOYMENT
    return settings


def make_session(
    info: kopf.ConnectionInfo,
    ages: WatchAges,
    take_in: Callable[[str, Sequence[Manifest]], None],
) -> aiohttp.ClientSession:
    """A session that notes when each watch was last granted, and takes the lists in itself.

    kopf makes a queue, a task and a record of each listed object, which stay large for five
    thousand of them long after they are gone; it is told of an empty list and of its version, and
    watches from there.
    """
    trace = aiohttp.TraceConfig()

    class ListResponse(aiohttp.ClientResponse):
        async def json(self, **how: Any) -> Any:
            answer = await super().json(**how)
            plural = self.url.path.rsplit("/", 1)[-1]
            if plural in _KINDS and isinstance(answer, dict) and "items" in answer:
                # The API server writes an empty list of metadata as null.
                take_in(plural, answer["items"] or ())
                answer["items"] = []
            return answer

    async def on_end(
        _session: aiohttp.ClientSession, _context: Any, answer: aiohttp.TraceRequestEndParams
    ) -> None:
        if answer.response.status == 200 and answer.url.query.get("watch") == "true":
            ages.note_granted(answer.url.path.rsplit("/", 1)[-1])

    async def ask_for_metadata(
        request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        is_watch = request.url.query.get("watch") == "true"
        if is_watch or request.url.path.rsplit("/", 1)[-1] in _KINDS:
            kind = "PartialObjectMetadata" if is_watch else "PartialObjectMetadataList"
            request.headers["Accept"] = _PARTIAL.format(kind)
        return await send(request)

    trace.on_request_end.append(on_end)
    return aiohttp.ClientSession(
        middlewares=(ask_for_metadata,),
        response_class=ListResponse,
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers=info.as_http_headers(),
        trace_configs=[trace],
    )
