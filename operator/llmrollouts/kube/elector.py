"""One leader among the operator's replicas: the I/O around the decisions of ``lease``.

Decides nothing but when to ask; ends leadership at the deadline whatever the network does, and
never takes it up again in the same process: after a loss the shell lets the process exit, so no
half-stopped work can go on beside the next leader. Runs in the event loop of the work it guards,
on purpose: a wedged loop stops renewing. Called by the operator's shell; whoever pushes to the
proxies or writes to the cluster asks ``is_leader()`` first.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.lease import (
    Create,
    LeaseRecord,
    LeaseTiming,
    Seen,
    Take,
    Wait,
    campaign,
    make_lease,
)
from llmrollouts.kube.port import LEASE, Conflict, Kind, KubeError, NotFound, Transient

LOG: Final = logging.getLogger(__name__)

HIGHEST_EPOCH: Final = 2**31 - 1  # leaseTransitions is an int32
_SHORTEST_PAUSE: Final = 0.05  # s; a wait that ends a hair early must not become many requests
_ATTEMPTS: Final = 3  # writes in one renewal, when others touch the Lease meanwhile


class LeadershipLost(Exception):
    """This process led and does so no longer. It must exit: nothing it holds is valid."""


class LeaseStore(Protocol):
    """The part of the client that the elector uses. Give it a client of its own, so that no
    queue of other requests ever delays a renewal."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest: ...

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest: ...

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest: ...


def monotonic() -> float:
    """Seconds that only grow, through SIGSTOP and through a suspended machine too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def make_identity(pod: str, uid: str) -> str:
    """A name for this process alone: a restarted container of the same pod is another leader."""
    return f"{pod}_{uid}_{secrets.token_hex(4)}"


class Elector:
    """Campaigns for one Lease, leads, and tells when that is over. Used once.

    identity: unique to this process (make_identity). clock: monotonic seconds. wall: for the
    times that people read in the Lease. Callbacks are plain functions that return at once.
    """

    def __init__(
        self,
        store: LeaseStore,
        namespace: str,
        name: str,
        identity: str,
        *,
        on_started: Callable[[int], None] = lambda _: None,
        on_stopped: Callable[[str], None] = lambda _: None,
        timing: LeaseTiming | None = None,
        clock: Callable[[], float] = monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._namespace = namespace
        self._name = name
        self.identity = identity
        self._on_started = on_started
        self._on_stopped = on_stopped
        self._timing = timing or LeaseTiming()
        self._clock = clock
        self._wall = wall
        self._seen = Seen()
        self._lease: Manifest | None = None  # as last read or written; None: read it first
        self._epoch = 0
        self._acquired = ""
        self._renewed_at: float | None = None  # before the successful request was sent
        self._over = ""  # why this process will never (again) lead
        self._closing = asyncio.Event()
        self._writing = asyncio.Lock()
        self._failures = 0

    @property
    def epoch(self) -> int:
        """The number of this term, above every earlier leader's; 0 before the first."""
        return self._epoch

    @property
    def holder(self) -> str:
        """Who holds the Lease as far as this process has seen; empty: nobody."""
        return self._seen.record.holder if self._seen.record else ""

    def is_leader(self) -> bool:
        """Whether this process may write and push *now*. Once false after true, false for ever."""
        return self.remaining() > 0

    def remaining(self) -> float:
        """Seconds for which this process surely leads if no renewal succeeds any more."""
        if self._over or self._renewed_at is None:
            return 0.0
        left = self._renewed_at + self._timing.deadline - self._clock()
        if left <= 0:
            # Latched here, not when the loop gets round to it: a frozen and thawed leader must
            # not lead again because a late answer to an old renewal comes in.
            self._over = f"the lease was not renewed within {self._timing.deadline:g} s"
            return 0.0
        return left

    def lease_is_fresh(self) -> bool:
        """Whether anybody has shown, within the lease time, that it holds the Lease. With no
        API server to ask it stops being fresh by itself."""
        return self.is_leader() or self._seen.is_fresh(self._clock())

    async def run(self) -> None:
        """Campaign, then lead. Returns after ``release``; raises LeadershipLost otherwise.

        Cancelled, it stops leading at once, but leaves the Lease to run out.
        """
        try:
            await self._campaign()
            if self._closing.is_set():
                return
            LOG.info("Started to lead", extra={"epoch": self._epoch, "identity": self.identity})
            self._on_started(self._epoch)
            try:
                await self._lead()
            finally:
                self._over = self._over or "the elector was stopped"
                LOG.warning("Stopped leading", extra={"epoch": self._epoch, "reason": self._over})
                self._on_stopped(self._over)
            if not self._closing.is_set():
                raise LeadershipLost(self._over)
        finally:
            self._over = self._over or "the elector was stopped"

    async def release(self) -> None:
        """Stop leading now and, if the Lease is ours, hand it to whoever waits. Never raises for
        the API server: a Lease that cannot be released runs out by itself."""
        self._over = self._over or "released"
        self._closing.set()
        try:
            async with asyncio.timeout(2 * self._timing.request), self._writing:
                if self._epoch and await self._hold(self._epoch, holder=""):
                    LOG.info("Released the lease", extra={"epoch": self._epoch})
        except (KubeError, TimeoutError) as error:
            LOG.warning("Left the lease to run out", extra={"error": str(error) or "time-out"})

    async def outrank(self, epoch: int) -> int:
        """Raise our epoch above ``epoch``, found on an object written by an unknown leader.

        That happens when the Lease was deleted while nobody ran. The compare-and-swap proves that
        no other leads now. Returns the new epoch; raises LeadershipLost if another does lead,
        KubeError if the server cannot be asked, ValueError for an epoch that no leader can have.
        """
        if epoch >= HIGHEST_EPOCH:
            raise ValueError(f"epoch {epoch} is beyond what a Lease can count")
        async with self._writing:
            if epoch < self._epoch and self.is_leader():
                return self._epoch
            if not self.is_leader() or not await self._swap(epoch + 1):
                raise LeadershipLost(self._over or "this process does not lead")
            LOG.warning("Raised the epoch above a stored one", extra={"epoch": self._epoch})
            return self._epoch

    async def _campaign(self) -> None:
        while not self._closing.is_set():
            try:
                async with asyncio.timeout(self._timing.request):
                    self._see(await self._read())
                now = self._clock()
                match campaign(self._seen, self.identity, now, self._timing):
                    case Wait(until):
                        pause = until - now
                    case Create(transitions) | Take(transitions):
                        async with self._writing:
                            if not self._closing.is_set() and await self._begin(transitions):
                                return
                        pause = self._timing.retry / 10  # somebody was faster: look at once
                self._recovered()
            except (KubeError, TimeoutError) as error:
                self._failed("campaign", error)
                pause = self._timing.retry
            await self._pause(pause)

    async def _begin(self, transitions: int) -> bool:
        """Write ourselves in; True if this process leads now."""
        sent = self._clock()
        self._acquired = self._now()
        async with asyncio.timeout(self._timing.request):
            try:
                written = await self._write(transitions, self.identity)
            except Conflict:
                return False
        self._see(written)
        self._epoch, self._renewed_at = transitions, sent
        return self.is_leader()

    async def _lead(self) -> None:
        pause = self._timing.renew_every
        while self.is_leader() and not self._closing.is_set():
            await self._pause(min(pause, self.remaining()))
            started = self._clock()
            async with self._writing:
                if self._closing.is_set() or not self.is_leader():
                    return
                try:
                    if not await self._swap(self._epoch):
                        return
                except (KubeError, TimeoutError) as error:
                    self._failed("renew", error)
                    pause = max(0.0, started + self._timing.retry - self._clock())
                    continue
            self._recovered()
            pause = max(0.0, started + self._timing.renew_every - self._clock())

    async def _swap(self, epoch: int) -> bool:
        """Renew with this epoch, as long as the Lease is ours. False: it is over. Raises KubeError
        or TimeoutError when it is not known: the deadline decides."""
        sent = self._clock()
        async with asyncio.timeout(min(self._timing.request, self.remaining())):
            ours = await self._hold(epoch, holder=self.identity)
        if not self.is_leader():
            return False  # the answer came after the deadline
        if not ours:
            self._over = f"{self.holder or 'somebody'} took the lease"
            return False
        self._epoch, self._renewed_at = epoch, sent
        return True

    async def _hold(self, epoch: int, holder: str) -> bool:
        """Write ``holder`` while the Lease is ours (or gone). False: it is somebody else's."""
        for _ in range(_ATTEMPTS):
            if self._lease is None:
                self._see(await self._read())
                record = self._seen.record
                if record is not None and record.holder != self.identity:
                    return False
            try:
                self._see(await self._write(epoch, holder))
            except (Conflict, NotFound):
                continue  # read again: a label, our own lost answer, or another leader
            return True
        raise Transient("the Lease changed under each of our writes")

    async def _read(self) -> Manifest | None:
        self._lease = None
        try:
            return await self._store.get(LEASE, self._namespace, self._name)
        except NotFound:
            return None

    async def _write(self, transitions: int, holder: str) -> Manifest:
        """One write by compare-and-swap. Whatever goes wrong, the next one reads first."""
        known, self._lease = self._lease, None
        metadata = {"namespace": self._namespace, "name": self._name}
        lease = make_lease(
            copy.deepcopy(known["metadata"]) if known else metadata,
            holder=holder,
            transitions=transitions,
            duration=self._timing.lease if holder else 1.0,
            renewed=self._now(),
            acquired=self._acquired,
        )
        if known:
            return await self._store.replace(LEASE, lease)
        return await self._store.create(LEASE, lease)

    def _see(self, lease: Manifest | None) -> None:
        self._lease = lease
        record = LeaseRecord.of(lease) if lease else None
        self._seen = self._seen.look(record, self._clock(), self._timing)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(_SHORTEST_PAUSE, seconds)):
                await self._closing.wait()
        except TimeoutError:
            return

    def _failed(self, what: str, error: Exception) -> None:
        # One line per outage, not one per second.
        self._failures += 1
        if self._failures == 1:
            reason = str(error) or f"no answer within {self._timing.request:g} s"
            LOG.warning("Failed to reach the lease", extra={"doing": what, "error": reason})

    def _recovered(self) -> None:
        if self._failures:
            LOG.info("Reached the lease again", extra={"failures": self._failures})
        self._failures = 0

    def _now(self) -> str:
        return self._wall().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
