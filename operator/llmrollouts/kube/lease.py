"""Who may lead, decided from what was seen of one Lease and when: pure, no I/O, no clock.

Theory. A leader writes its name and a time into the Lease again and again; whoever has watched
the record stay the same for a whole lease time *on its own monotonic clock* may take it, by
compare-and-swap. The times written in the record are for people: comparing them would trust two
wall clocks. What keeps two leaders apart is arithmetic on one machine each:

    leader    counts from just BEFORE it sent the renewal that succeeded, and stops after 4 s
    standby   counts from just AFTER it first saw that renewal, and waits for 6 s

so the old leader has stopped at least 2 s before the new one may start, whatever the network did.

    Standing by --- free, expired, released ---> Acquire --- swapped ---> leading (epoch + 1)
        ^                                           |                        |        |
        '------------------ Conflict ---------------'        renewed in 4 s--'        '--> lost
                                                                                (for ever: exit)

The epoch is ``leaseTransitions``: it grows with each new leader and never falls as long as
somebody who remembers it is alive, even when the Lease itself is deleted by hand.
Called by the elector only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.port import LEASE

LONGEST_LEASE: Final = 60.0  # s; a Lease edited by hand to a year must not keep everybody out


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """Seconds. ``renew_every`` < ``deadline`` < ``lease``, with room for two time-outs."""

    lease: float = 6.0
    deadline: float = 4.0
    renew_every: float = 1.5
    retry: float = 1.0
    request: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.renew_every < self.deadline < self.lease:
            raise ValueError("the elector needs 0 < renew_every < deadline < lease")


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The part of a Lease that says who leads. ``duration``: seconds, as its holder promised."""

    holder: str
    transitions: int
    duration: float
    renewed: str
    acquired: str

    @classmethod
    def of(cls, lease: Manifest) -> LeaseRecord:
        """Read a Lease; what is missing or null reads as unheld."""
        spec = lease.get("spec") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            transitions=int(spec.get("leaseTransitions") or 0),
            duration=float(spec.get("leaseDurationSeconds") or 0),
            renewed=str(spec.get("renewTime") or ""),
            acquired=str(spec.get("acquireTime") or ""),
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What this process knows: the record, when it first saw it so (monotonic seconds), and the
    highest count of transitions that it ever saw. ``record`` None: the Lease is not there."""

    record: LeaseRecord | None = None
    since: float = 0.0
    held_until: float = 0.0
    transitions: int = 0

    def look(self, record: LeaseRecord | None, now: float, timing: LeaseTiming) -> Seen:
        """The knowledge after an answer that arrived at ``now``. An unchanged record keeps its
        first time: only a change is a sign of life."""
        if record is None:
            # Deleted by hand: its holder may lead on until its time is over.
            return Seen(None, now, self.held_until, self.transitions)
        highest = max(self.transitions, record.transitions)
        if self.record == record:
            return Seen(record, self.since, self.held_until, highest)
        held = now + max(timing.lease, min(record.duration, LONGEST_LEASE))
        return Seen(record, now, held if record.holder else now, highest)

    def is_fresh(self, now: float) -> bool:
        """Somebody holds the lease, and has shown a sign of life within the lease time."""
        return now < self.held_until


@dataclass(frozen=True, slots=True)
class Create:
    """Create the Lease with this many transitions."""

    transitions: int


@dataclass(frozen=True, slots=True)
class Take:
    """Write ourselves into the Lease that was read, with this many transitions."""

    transitions: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Another leads: look again at this monotonic time."""

    until: float


Campaign: TypeAlias = Create | Take | Wait


def campaign(seen: Seen, identity: str, now: float, timing: LeaseTiming) -> Campaign:
    """What one who does not lead does next, after looking."""
    record = seen.record
    if record is not None and record.holder == identity:
        # Our own write whose answer was lost: the term is ours already.
        return Take(record.transitions)
    if seen.is_fresh(now):
        return Wait(min(seen.held_until, now + timing.retry))
    if record is None:
        return Create(seen.transitions + 1)
    return Take(seen.transitions + 1)


def make_lease(
    metadata: Manifest,
    *,
    holder: str,
    transitions: int,
    duration: float,
    renewed: str,
    acquired: str,
) -> Manifest:
    """The Lease to write. ``metadata``: as read, labels of others included, or name and namespace
    for a new one. Times: RFC 3339 with microseconds, for people only."""
    return {
        "apiVersion": LEASE.api_version,
        "kind": LEASE.kind,
        "metadata": metadata,
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(duration)),
            "leaseTransitions": transitions,
            "acquireTime": acquired,
            "renewTime": renewed,
        },
    }
