"""What the proxies should do for one LLMDeployment: the language between plan and traffic.

The state machine writes a ``DeploymentTraffic``; a traffic provider makes it true and answers with
a ``TrafficObservation``. Pure values; nothing here knows Envoy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llmrollouts.api.reasons import Reason
from llmrollouts.api.share import NONE, Share


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One ready worker."""

    address: str
    port: int
    pod: str


@dataclass(frozen=True, slots=True)
class RevisionTraffic:
    """One living revision.

    share: of the user requests, answered by this revision; zero for the default.
    mirror: wanted share of the user requests that are copied to it (answers dropped). The
        provider adds the share to it, because Envoy draws one random number for both.
    fallback: the revision whose workers answer when this one has none or fails before the first
        byte; None for none.
    """

    revision: str
    endpoints: tuple[Endpoint, ...]
    share: Share = NONE
    mirror: Share = NONE
    fallback: str | None = None


@dataclass(frozen=True, slots=True)
class RouteRule:
    """The rule of a user's HTTPRoute, by its name or its place (from 0); neither: the only one that
    lists the two Services."""

    route: str
    name: str | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True)
class DeploymentTraffic:
    """All that the proxies know of one LLMDeployment.

    default: the revision that answers whatever no share takes; None while nothing serves yet.
    rule: where the shares are weights of an HTTPRoute; None: the built-in gateway.
    """

    namespace: str
    name: str
    uid: str
    default: str | None
    revisions: tuple[RevisionTraffic, ...]
    rule: RouteRule | None = None

    def share_of(self, revision: str) -> Share:
        return next((r.share for r in self.revisions if r.revision == revision), NONE)


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Cumulative counts of one revision since the operator process started, from load reports.

    issued: user requests sent to it; saved: of these, answered by the fallback instead;
    errors: failed at it (saved ones included); mirrored: copies sent to it.
    """

    issued: int = 0
    saved: int = 0
    errors: int = 0
    mirrored: int = 0


@dataclass(frozen=True, slots=True)
class TrafficProblem:
    """What keeps a provider from doing what it was told, and what a person can do about it."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class TrafficObservation:
    """What the provider knows of one deployment at the moment of asking.

    programmed: what it was last asked for (None: nothing since this process started).
    settled: every gateway that can carry traffic has acknowledged ``programmed``, or what it had
        has certainly run out.
    gateways / settled_gateways: how many there are, and how many have acknowledged.
    report_age: seconds since the stalest gateway's last load report; None: never one.
    quiet_seconds: by revision, seconds since a user request was last issued to it (None: never).
    source: names this life of this process: the counts started at zero with it.
    refusals: what gateways refuse now of what they were sent, in their words.
    recent: by revision, share of the user requests of the last ten seconds (live, mirrored).
    counts_requests: False where nobody counts the requests: the counts above say nothing then.
    problem: what keeps the provider from doing what it was told; None: nothing.
    """

    programmed: DeploymentTraffic | None = None
    settled: bool = False
    gateways: int = 0
    settled_gateways: int = 0
    report_age: float | None = None
    quiet_seconds: Mapping[str, float | None] = field(default_factory=dict)
    counts: Mapping[str, RequestCounts] = field(default_factory=dict)
    recent_live: Mapping[str, float] = field(default_factory=dict)
    recent_mirrored: Mapping[str, float] = field(default_factory=dict)
    recent_rate: float = 0.0
    source: str = ""
    refusals: tuple[str, ...] = ()
    counts_requests: bool = True
    problem: TrafficProblem | None = None


def lowered(current: DeploymentTraffic | None, wanted: DeploymentTraffic) -> DeploymentTraffic:
    """What may be programmed before ``wanted`` is committed: never more than ``current`` allows.

    The default stays; no share and no mirror rises; endpoints follow the ready workers. With no
    ``current`` every share is 0.
    """
    if current is None:
        return replace(
            wanted,
            revisions=tuple(replace(r, share=NONE, mirror=NONE) for r in wanted.revisions),
        )
    was = {r.revision: r for r in current.revisions}
    nothing = RevisionTraffic("", ())
    kept = [
        replace(
            r,
            share=min(r.share, was.get(r.revision, nothing).share),
            mirror=min(r.mirror, was.get(r.revision, nothing).mirror),
        )
        for r in wanted.revisions
    ]
    wanted_names = {r.revision for r in wanted.revisions}
    # The default of the moment keeps its workers until the switch is committed.
    kept.extend(
        r
        for r in current.revisions
        if r.revision == current.default and r.revision not in wanted_names
    )
    return replace(wanted, default=current.default, revisions=tuple(kept))
