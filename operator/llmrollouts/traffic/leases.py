"""The lease on each deployment's shares: it says that somebody still decides.

Only a completed round on fresh evidence renews it. Called by gateway.py; reads no clock itself.
"""

from __future__ import annotations


class ShareLeases:
    """length: seconds that a lease holds after it was renewed."""

    def __init__(self, length: float) -> None:
        self._length = length
        self._until: dict[str, float] = {}

    def renew(self, uid: str, now: float) -> None:
        self._until[uid] = now + self._length

    def holds(self, uid: str, now: float) -> bool:
        return self._until.get(uid, float("-inf")) > now

    def drop(self, uid: str) -> None:
        self._until.pop(uid, None)

    def take_expired(self, now: float) -> tuple[str, ...]:
        """The deployments whose lease has run out since the last call; each is named once."""
        expired = tuple(uid for uid, until in self._until.items() if until <= now)
        for uid in expired:
            del self._until[uid]
        return expired
