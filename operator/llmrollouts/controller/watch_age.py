"""How old the watch layer's picture is, seen from two sides.

*Granted*: every watch is asked for again every few minutes, so one that was not is dead, although
its connection may look alive. *Behind*: a round has read an object at a version that the watch of
its kind has not reached; a watch that stays behind loses events. It decides nothing about
restarts. Fed by controller/watch and the rounds; read by controller/health.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.port import Kind


@dataclass(slots=True)
class _Watch:
    """Times are monotonic seconds. behind_since: when a newer version was first read."""

    alive_at: float
    reached: int = 0
    read: int = 0
    behind_since: float | None = None


class WatchAges:
    def __init__(self, kinds: Iterable[Kind], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._watches = {kind.plural: _Watch(clock()) for kind in kinds}

    def note_granted(self, plural: str) -> None:
        """The API server has granted this watch (again)."""
        watch = self._watches.get(plural)
        if watch is not None:
            watch.alive_at = self._clock()

    def note_event(self, kind: Kind, version: str) -> None:
        watch = self._watches[kind.plural]
        watch.alive_at = self._clock()
        watch.reached = max(watch.reached, _number(version))
        if watch.reached >= watch.read:
            watch.behind_since = None

    def note_read(self, kind: Kind, objects: Iterable[Manifest]) -> None:
        """A round has read these objects, past the watch."""
        watch = self._watches[kind.plural]
        for manifest in objects:
            version = _number(str((manifest.get("metadata") or {}).get("resourceVersion", "")))
            watch.read = max(watch.read, version)
        if watch.read > watch.reached and watch.behind_since is None:
            watch.behind_since = self._clock()

    def age(self) -> dict[str, float]:
        """By kind, seconds since the watch last showed that it lives."""
        now = self._clock()
        return {plural: now - watch.alive_at for plural, watch in self._watches.items()}

    def lag(self) -> dict[str, float]:
        """By kind, seconds for which the watch has not reached what a round had read."""
        now = self._clock()
        return {
            plural: 0.0 if watch.behind_since is None else now - watch.behind_since
            for plural, watch in self._watches.items()
        }


def _number(version: str) -> int:
    """Versions of one kind grow; they are compared as numbers since Kubernetes 1.35 says so."""
    return int(version) if version.isascii() and version.isdigit() else 0
