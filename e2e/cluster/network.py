"""The node's network namespace, its link to the host, and the host's routes to pods and Services.

It decides what is missing and adds only that. The host's firewall, forwarding and addresses are
left alone: the node can be reached from this machine and from nowhere else, and pods reach
nothing but the node and this machine.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from e2e.cluster import places as at
from e2e.cluster.steps import CannotContinueError, run, succeeds

NAMESPACE_FILE = Path("/run/netns") / at.NAMESPACE
_FORWARDING = "/proc/sys/net/ipv4/ip_forward"
_LOCALNET = "/proc/sys/net/ipv4/conf/all/route_localnet"


def namespace_exists() -> bool:
    """True for a living namespace; a file left over from before a reboot is none."""
    try:
        found, own = NAMESPACE_FILE.stat(), Path("/proc/self/ns/net").stat()
    except FileNotFoundError:
        return False
    return found.st_dev == own.st_dev and found.st_ino != own.st_ino


def ensure_network() -> None:
    """Make the namespace, the link, the addresses and the routes that are missing."""
    if not namespace_exists():
        NAMESPACE_FILE.unlink(missing_ok=True)
        run(["ip", "netns", "add", at.NAMESPACE])
    if not (_has_link(at.HOST_LINK, inside=False) and _has_link("eth0", inside=True)):
        for inside, name in ((False, at.HOST_LINK), (True, "eth0")):
            if _has_link(name, inside=inside):
                _ip(["link", "delete", name], inside=inside)
        run(["ip", "link", "add", at.HOST_LINK, "type", "veth",
             "peer", "name", "eth0", "netns", at.NAMESPACE])  # fmt: skip
    _ensure_address(at.HOST_LINK, at.HOST_ADDRESS, inside=False)
    _ensure_address("eth0", at.NODE_ADDRESS, inside=True)
    _ip(["link", "set", "lo", "up"], inside=True)
    _ensure_route("default", at.HOST_ADDRESS, inside=True)
    for destination in (at.POD_RANGE, at.SERVICE_RANGE):
        _ensure_route(destination, at.NODE_ADDRESS, inside=False)
    # /proc/sys/net shows the namespace of the process that opens it.
    run([*enter(), "sh", "-c", f"echo 1 > {_FORWARDING}; echo 1 > {_LOCALNET}"])


def delete_network() -> None:
    """Remove the namespace and, with its link, the host's routes."""
    if namespace_exists():
        run(["ip", "netns", "delete", at.NAMESPACE])
    NAMESPACE_FILE.unlink(missing_ok=True)
    if _has_link(at.HOST_LINK, inside=False):
        run(["ip", "link", "delete", at.HOST_LINK])


def enter() -> list[str]:
    """The words before a command that is to run inside the namespace."""
    return ["nsenter", f"--net={NAMESPACE_FILE}", "--"]


def _ip(arguments: list[str], *, inside: bool) -> str:
    return run([*(enter() if inside else []), "ip", *arguments])


def _has_link(name: str, *, inside: bool) -> bool:
    return succeeds([*(enter() if inside else []), "ip", "link", "show", "dev", name])


def _ensure_address(link: str, address: str, *, inside: bool) -> None:
    shown = json.loads(_ip(["-j", "address", "show", "dev", link], inside=inside))
    present = {a["local"] for entry in shown for a in entry.get("addr_info", [])}
    if address not in present:
        _ip(["address", "add", f"{address}/{at.LINK_PREFIX}", "dev", link], inside=inside)
    _ip(["link", "set", link, "up"], inside=inside)


def _ensure_route(destination: str, gateway: str, *, inside: bool) -> None:
    shown = json.loads(_ip(["-j", "route", "show", destination], inside=inside) or "[]")
    if not shown:
        _ip(["route", "add", destination, "via", gateway], inside=inside)
    elif not any(r.get("gateway") == gateway for r in shown):
        raise CannotContinueError(
            f"This machine already routes {destination} elsewhere ({shown}); the local cluster "
            "needs that range. Remove the other network first."
        )


def require_root() -> None:
    """Raises CannotContinueError unless the process may make namespaces."""
    if os.geteuid() != 0:
        raise CannotContinueError(
            "The single-node cluster needs root (network namespaces, mounts, containerd). "
            "Run it as root, or start a Docker engine and install kind."
        )
