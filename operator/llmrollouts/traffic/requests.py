"""What a gateway says on its configuration stream: subscriptions and acknowledgements.

Reads only the fields that are used; each acknowledgement of endpoints repeats every name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from envoy_data_plane.envoy.config.core.v3 import Node

from llmrollouts.traffic import wire
from llmrollouts.traffic.kinds import BY_TYPE, Kind

_MAX_REASON = 500


@dataclass(frozen=True)
class DiscoveryRequest:
    """kind: None for a type that we do not serve. nonce: of the response it answers, empty for
    the first request of a kind. error: why the gateway refused that response."""

    kind: Kind | None
    version: str
    nonce: str
    error: str | None
    raw_names: tuple[bytes, ...]
    raw_node: bytes | None

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(name.decode() for name in self.raw_names)

    @classmethod
    def parse(cls, data: bytes) -> DiscoveryRequest:
        """Raises ValueError on anything that is no such request."""
        texts: dict[int, bytes] = {}
        names: list[bytes] = []
        for number, value in wire.fields(data):
            if not isinstance(value, bytes):
                continue
            if number == 3:
                names.append(value)
            else:
                texts[number] = value
        return cls(
            kind=BY_TYPE.get(texts.get(4, b"").decode()),
            version=texts.get(1, b"").decode(),
            nonce=texts.get(5, b"").decode(),
            error=_reason(texts[6]) if 6 in texts else None,
            raw_names=tuple(names),
            raw_node=texts.get(2),
        )


@dataclass(frozen=True, slots=True)
class GatewayNode:
    """Who a stream belongs to. port: on which it wants to listen; None: the usual one."""

    name: str
    port: int | None

    @classmethod
    def parse(cls, data: bytes) -> GatewayNode:
        """Raises ValueError when the node has no id or asks for a port that is none."""
        node = Node.parse(data)
        if not node.id:
            raise ValueError("the gateway gives no node id")
        value = node.metadata.fields.get("listen_port") if node.metadata else None
        if value is None or value.number_value is None:
            return cls(node.id, None)
        port = int(value.number_value)
        if not 0 < port < 65536:
            raise ValueError(f"gateway {node.id} asks for port {port}")
        return cls(node.id, port)


def _reason(status: bytes) -> str:
    """The message of a google.rpc.Status, cut to a length that fits a log line."""
    for number, value in wire.fields(status):
        if number == 2 and isinstance(value, bytes):
            return value.decode(errors="replace")[:_MAX_REASON]
    return "no reason given"
