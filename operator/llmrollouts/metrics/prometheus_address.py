"""Which Prometheus may be asked: the administrator's list, and where a name may lead to.

It decides both halves of the rule: an address is allowed when an entry of the list has the same
scheme, host and port and a path that it lies below (a text comparison would let
``https://prometheus.example`` allow ``https://prometheus.example.evil``); and the machine behind
the name is allowed when it is neither this machine nor on its network link, unless the entry names
such a machine itself. The second half is checked on the connected socket, so that no later answer
of the name service can get around it. Called by controller/prometheus_gates and by the connection
in prometheus_http.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_PORTS: Final = {"http": 80, "https": 443}
# Services of clouds that hand out credentials and do not sit on the network link.
_METADATA: Final = frozenset(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")
)


@dataclass(frozen=True, slots=True)
class Address:
    """One base address in its normal form. path: without a slash at its end."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    def covers(self, other: Address) -> bool:
        """``other`` is this address or lies below it."""
        below = other.path == self.path or other.path.startswith(f"{self.path}/")
        return self.origin == other.origin and below


@dataclass(frozen=True, slots=True)
class Permit:
    """An address that may be asked. internal: also when it leads to this machine or its link."""

    address: Address
    url: str
    internal: bool


def parse_address(text: str) -> Address:
    """Raises ValueError, with a message for people, on anything but a plain base address."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"{text[:100]!r} is no address") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"{text[:100]!r} is no address: write http:// or https:// and a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address carries no user name and no password")
    if parts.query or parts.fragment or "%" in text or "\\" in text:
        raise ValueError(f"{text[:100]!r} is no base address: leave out ?, #, % and backslashes")
    if any(part in (".", "..") for part in parts.path.split("/")):
        raise ValueError(f"the path of {text[:100]!r} goes up: write it without dots")
    host = parts.hostname.lower().rstrip(".")
    return Address(parts.scheme, host, port or _PORTS[parts.scheme], parts.path.rstrip("/"))


class AllowedAddresses:
    """The administrator's list; empty: no Prometheus may be asked."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        """Raises ValueError when an entry is no base address."""
        self._entries = tuple(parse_address(entry) for entry in entries)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def permit(self, text: str) -> Permit | None:
        """None when no entry covers ``text``. Raises ValueError when it is no base address."""
        asked = parse_address(text)
        for entry in self._entries:
            if entry.covers(asked):
                return Permit(asked, text.rstrip("/"), _names_internal(entry.host))
        return None


def _names_internal(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return not is_external(host)
    except ValueError:
        return False


def is_external(peer: str) -> bool:
    """Whether the IP address ``peer`` is another machine's that a name may lead to. Raises
    ValueError when it is no IP address."""
    found = ipaddress.ip_address(peer.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return not (
        found.is_loopback
        or found.is_link_local
        or found.is_unspecified
        or found.is_multicast
        or found in _METADATA
    )
