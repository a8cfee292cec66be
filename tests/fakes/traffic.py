"""Gateways in memory, behind the same port as the real ones.

They acknowledge at once (or not at all while ``silent``), send users to each revision by the share
in force, and take a share to 0 when its lease has run out. What they were ever asked for is in
``asked``, so that a test can say "never above".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llmrollouts.rollout.intent import DeploymentTraffic, RequestCounts, TrafficObservation

LEASE = 8.0


@dataclass
class Users:
    """The users of all deployments, who outlive every process of the operator."""

    rate: float = 1000.0
    issued: dict[tuple[str, str], float] = field(default_factory=dict)
    mirrored: dict[tuple[str, str], float] = field(default_factory=dict)
    last: dict[tuple[str, str], float] = field(default_factory=dict)


class FakeTraffic:
    """Implements TrafficPort. now: monotonic seconds, moved by the test; ``flow`` after it."""

    lives = 0

    def __init__(self, now: Callable[[], float], users: Users | None = None) -> None:
        FakeTraffic.lives += 1
        self.now = now
        self.users = users if users is not None else Users()
        self.source = f"life-{FakeTraffic.lives}"
        self.silent = False
        self.report_age: float | None = 0.5
        self.gateways = 2
        self.programmed: dict[str, DeploymentTraffic] = {}
        self.asked: list[DeploymentTraffic] = []
        self.forgotten: list[str] = []
        self.on_program: Callable[[DeploymentTraffic], None] = lambda traffic: None
        self._renewed: dict[str, float] = {}
        self._counted: dict[tuple[str, str], tuple[float, float]] = {}

    def program(self, traffic: DeploymentTraffic) -> None:
        self.on_program(traffic)
        if self.programmed.get(traffic.uid) != traffic:
            self.asked.append(traffic)
        self.programmed[traffic.uid] = traffic

    def renew(self, uid: str) -> None:
        self._renewed[uid] = self.now()

    def forget(self, uid: str) -> None:
        self.programmed.pop(uid, None)
        self._renewed.pop(uid, None)
        self.forgotten.append(uid)

    def observe(self, uid: str) -> TrafficObservation:
        programmed = self.programmed.get(uid)
        if programmed is None:
            return TrafficObservation(gateways=self.gateways, source=self.source)
        names = [r.revision for r in programmed.revisions]
        return TrafficObservation(
            programmed=programmed,
            settled=not self.silent,
            gateways=self.gateways,
            settled_gateways=0 if self.silent else self.gateways,
            report_age=self.report_age,
            quiet_seconds={name: self._quiet(uid, name) for name in names},
            counts={name: self._counts(uid, name) for name in names},
            recent_live={name: self.share(uid, name) / 1e6 for name in names},
            recent_mirrored={name: self.mirror(uid, name) / 1e6 for name in names},
            recent_rate=self.users.rate,
            source=self.source,
        )

    # What the test sees and does.

    def share(self, uid: str, revision: str) -> int:
        """Parts per million that are in force now: 0 without a lease, the rest for the default."""
        traffic = self.programmed.get(uid)
        if traffic is None:
            return 0
        shares = {r.revision: r.share.ppm if self.leased(uid) else 0 for r in traffic.revisions}
        if traffic.default == revision:
            return 1_000_000 - sum(s for name, s in shares.items() if name != revision)
        return shares.get(revision, 0)

    def mirror(self, uid: str, revision: str) -> int:
        traffic = self.programmed.get(uid)
        if traffic is None or not self.leased(uid):
            return 0
        return next((r.mirror.ppm for r in traffic.revisions if r.revision == revision), 0)

    def leased(self, uid: str) -> bool:
        return self.now() - self._renewed.get(uid, float("-inf")) < LEASE

    def flow(self, seconds: float) -> None:
        """Users have sent requests for ``seconds`` up to now."""
        for uid, traffic in self.programmed.items():
            for revision in traffic.revisions:
                key = (uid, revision.revision)
                issued = self.users.rate * seconds * self.share(uid, revision.revision) / 1e6
                mirrored = self.users.rate * seconds * self.mirror(uid, revision.revision) / 1e6
                self._counted.setdefault(key, (0.0, 0.0))
                was = self._counted[key]
                self._counted[key] = (was[0] + issued, was[1] + mirrored)
                if issued:
                    self.users.last[key] = self.now()

    def _quiet(self, uid: str, revision: str) -> float | None:
        last = self.users.last.get((uid, revision))
        return None if last is None else self.now() - last

    def _counts(self, uid: str, revision: str) -> RequestCounts:
        issued, mirrored = self._counted.get((uid, revision), (0.0, 0.0))
        return RequestCounts(issued=int(issued), mirrored=int(mirrored))
