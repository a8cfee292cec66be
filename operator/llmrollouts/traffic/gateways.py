"""Which gateways there are, and whether all of them have what one deployment wants.

A gateway counts while it is a ready endpoint of the gateways' Service, or connected and serving.
One that is neither carries nobody. Holds no connection; called by gateway.py and ads.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmrollouts.traffic.catalogue import Catalogue, Entry
from llmrollouts.traffic.stream import GatewayStream

# Past the TTL by this much, a silent gateway's shares have certainly run out: its clock may run
# slower, and a message may have been under way.
_MARGIN = 1.0


@dataclass(frozen=True, slots=True)
class Settlement:
    """How many gateways count, and how many of them have what is wanted."""

    gateways: int
    settled: int

    @property
    def complete(self) -> bool:
        return self.gateways == self.settled


@dataclass(slots=True)
class _Gateway:
    """stream: the open one, or the last one. silent_since: None while connected."""

    stream: GatewayStream | None
    silent_since: float | None


class Gateways:
    """started_at: when this process began to listen; no gateway heard it before."""

    def __init__(self, catalogue: Catalogue, started_at: float) -> None:
        self._catalogue = catalogue
        self._started_at = started_at
        self._expected: frozenset[str] | None = None
        self._known: dict[str, _Gateway] = {}
        # ROUTES generation when the server was opened: what had been served before.
        self.opened_generation: int | None = None

    def expect(self, names: frozenset[str]) -> None:
        self._expected = names
        for name in [n for n, g in self._known.items() if g.silent_since is not None]:
            if name not in names:
                del self._known[name]

    def connect(self, stream: GatewayStream) -> None:
        self._known[stream.node.name] = _Gateway(stream, None)

    def disconnect(self, stream: GatewayStream, now: float) -> None:
        gateway = self._known.get(stream.node.name)
        if gateway is None or gateway.stream is not stream:
            return
        if stream.node.name in self.expected:
            gateway.silent_since = now
        else:
            del self._known[stream.node.name]

    @property
    def expected(self) -> frozenset[str]:
        return self._expected or frozenset()

    @property
    def known(self) -> bool:
        """Somebody has said which gateways there are (there may be none)."""
        return self._expected is not None

    def connected(self) -> tuple[GatewayStream, ...]:
        return tuple(
            g.stream
            for g in self._known.values()
            if g.stream is not None and g.silent_since is None
        )

    def counted(self) -> frozenset[str]:
        """Every gateway that can carry users' requests."""
        serving = {s.node.name for s in self.connected() if s.has_routes}
        return self.expected | serving

    def settlement(self, uid: str, now: float) -> Settlement:
        entry = self._catalogue.entries.get(uid)
        names = self.counted()
        if entry is None:
            return Settlement(len(names), 0)
        return Settlement(len(names), sum(self._settled(n, uid, entry, now) for n in names))

    def refusals(self) -> tuple[str, ...]:
        return tuple(
            f"gateway {stream.node.name} refuses {what}"
            for stream in self.connected()
            for what in stream.refusals
        )

    def _settled(self, name: str, uid: str, entry: Entry, now: float) -> bool:
        gateway = self._known.get(name)
        stream = gateway.stream if gateway else None
        silent_since = gateway.silent_since if gateway else self._started_at
        if stream is not None and silent_since is None:
            return stream.has_routes_of(uid) and stream.has_shares_of(uid)
        # It is silent. Shares run out by themselves; routes stay what they were.
        assert silent_since is not None  # noqa: S101 - either connected or silent
        ttl = self._catalogue.settings.timing.ttl
        shares_ran_out = not entry.effective and now - silent_since > ttl + _MARGIN
        if stream is not None:
            routes = stream.has_routes_of(uid)
        else:
            # Never heard of in this process: it has what the last leader gave it. That is enough
            # where this process has changed nothing of it; a changed route or a removed revision
            # waits for the gateway.
            routes = self.opened_generation is not None and (
                entry.routes_at <= self.opened_generation
            )
        shares = shares_ran_out or (
            stream is not None and stream.has_shares_of(uid) and not entry.effective
        )
        return routes and shares
