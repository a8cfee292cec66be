"""Kubernetes Events: each transition told once, repetitions counted in one series.

A notice becomes one ``events.k8s.io/v1`` Event; the same notice again within ten minutes only
raises its count. Events are told on the side: they wait in a bounded line, never delay or fail a
round, and what cannot be told is logged and counted. It decides nothing about deployments.
Called by controller/act.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.port import EVENT, Conflict, KubeError, NotFound, Writer
from llmrollouts.rollout.effects import Notice

LOG: Final = logging.getLogger(__name__)

SERIES: Final = timedelta(minutes=10)
LONGEST_NOTE: Final = 1000  # the API takes 1,024 bytes
LONGEST_LINE: Final = 1000  # events that wait to be told
REMEMBERED: Final = 2000  # series that may still be counted up


@dataclass(slots=True)
class _Series:
    name: str
    count: int
    last: datetime


@dataclass(frozen=True, slots=True)
class _Told:
    deployment: Manifest
    notice: Notice
    at: datetime


class EventRecorder:
    """``instance`` names this process; ``now`` is the wall clock."""

    def __init__(
        self,
        writer: Writer,
        instance: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._writer = writer
        self._instance = instance[:128]
        self._now = now
        self._on_lost = on_lost
        self._line: asyncio.Queue[_Told] = asyncio.Queue(LONGEST_LINE)
        self._series: OrderedDict[tuple[str, ...], _Series] = OrderedDict()

    def tell(self, deployment: Manifest, notice: Notice) -> None:
        """Put an Event about ``deployment`` in line; a full line loses it, loudly."""
        try:
            self._line.put_nowait(_Told(deployment, notice, self._now()))
        except asyncio.QueueFull:
            self._lose(notice, "too many events wait for the API server")

    async def run(self) -> None:
        """Tell events one after the other, for ever."""
        while True:
            told = await self._line.get()
            try:
                await self._record(told)
            except KubeError as error:
                self._lose(told.notice, str(error))
            finally:
                self._line.task_done()

    async def flush(self, grace: float) -> None:
        """Wait up to ``grace`` seconds until all that was told is written."""
        try:
            await asyncio.wait_for(self._line.join(), grace)
        except TimeoutError:
            LOG.warning("Stopped with events untold", extra={"untold": self._line.qsize()})

    def _lose(self, notice: Notice, why: str) -> None:
        self._on_lost()
        LOG.warning("Lost an Event", extra={"reason": notice.reason, "error": why[:300]})

    async def _record(self, told: _Told) -> None:
        key = _series_key(told)
        series = self._series.get(key)
        if series is not None and told.at - series.last < SERIES:
            try:
                await self._count_up(told, series)
                return
            except (NotFound, Conflict):
                # The API server keeps events for an hour at most: begin a new series.
                del self._series[key]
        name = _event_name(told)
        await self._writer.create(EVENT, self._make_event(told, name))
        self._series[key] = _Series(name, 1, told.at)
        while len(self._series) > REMEMBERED:
            self._series.popitem(last=False)

    async def _count_up(self, told: _Told, series: _Series) -> None:
        count = series.count + 1
        value = {"count": count, "lastObservedTime": _micro(told.at)}
        operation = {"op": "add", "path": "/series", "value": value}
        namespace = told.deployment["metadata"]["namespace"]
        await self._writer.patch(EVENT, namespace, series.name, [operation])
        series.count, series.last = count, told.at

    def _make_event(self, told: _Told, name: str) -> Manifest:
        metadata = told.deployment["metadata"]
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "eventTime": _micro(told.at),
            "type": told.notice.kind,
            "reason": told.notice.reason[:128],
            "action": told.notice.reason[:128],
            "note": _shorten(told.notice.message),
            "reportingController": labels.GROUP,
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": labels.API_VERSION,
                "kind": labels.KIND,
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        }


def _series_key(told: _Told) -> tuple[str, ...]:
    uid = told.deployment["metadata"]["uid"]
    return uid, told.notice.kind, told.notice.reason, told.notice.message


def _event_name(told: _Told) -> str:
    text = "\0".join((*_series_key(told), told.at.isoformat()))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{told.deployment['metadata']['name']}.{digest}"


def _shorten(text: str) -> str:
    data = text.encode()
    if len(data) <= LONGEST_NOTE:
        return text
    return data[: LONGEST_NOTE - 3].decode("utf-8", "ignore") + "…"


def _micro(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
