"""Which version of each object the last round has read: it keeps old news from waking a round.

The API server tells every watcher of each change, our own writes included, and lists everything
again at each start. An event about exactly the version that the last round read (or wrote) carries
nothing new. Only such an event is dropped here; nothing else is ever decided from these versions,
and the content is not kept. Called by observe (note) and by the watch layer (is_news).
"""

from __future__ import annotations

from collections.abc import Iterable

from llmrollouts.api.manifest import Manifest
from llmrollouts.controller.keys import Key


class Versions:
    def __init__(self) -> None:
        self._seen: dict[Key, dict[str, str]] = {}

    def note(self, key: Key, objects: Iterable[Manifest]) -> None:
        """A round has read exactly these objects of ``key``."""
        self._seen[key] = dict(_version(manifest) for manifest in objects)

    def note_written(self, key: Key, manifest: Manifest) -> None:
        """A round has written one object; the answer carries its new version."""
        seen = self._seen.get(key)
        if seen is not None:
            uid, version = _version(manifest)
            seen[uid] = version

    def is_news(self, key: Key, manifest: Manifest) -> bool:
        uid, version = _version(manifest)
        return self._seen.get(key, {}).get(uid) != version

    def differs(self, key: Key, objects: Iterable[Manifest]) -> bool:
        """Whether these are not exactly the objects and versions that the last round knew."""
        return self._seen.get(key) != dict(_version(manifest) for manifest in objects)

    def forget(self, key: Key) -> None:
        self._seen.pop(key, None)


def _version(manifest: Manifest) -> tuple[str, str]:
    metadata = manifest.get("metadata") or {}
    return str(metadata.get("uid", "")), str(metadata.get("resourceVersion", ""))
