"""Whether an operator leads, as far as its Lease tells; decides nothing.

Read after a command that nobody took in, and by `kubectl llm status` while something should move:
without an operator the figures of the status are old, and nothing on the screen says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from llmrollouts.cli.cluster import LEASE, Cluster, list_items
from llmrollouts.cli.failure import Failure
from llmrollouts.cli.times import read_time

# Seconds. ``now`` is of this machine's clock, and nobody shall be woken because it is ahead.
SILENT: Final = 60.0


def describe_lease(cluster: Cluster, now: datetime) -> str:
    """In a sentence or two, with the command that shows more."""
    try:
        lease = _read(cluster)
    except Failure as problem:
        return f"Whether the operator runs is not known: its Lease cannot be read ({problem})."
    silence = _describe_silence(lease, now)
    if silence is not None or lease is None:
        return silence or ""
    where, spec = lease["metadata"]["namespace"], lease["spec"]
    renewed = read_time(spec["renewTime"])
    age = (now - renewed).total_seconds() if renewed is not None else 0.0
    return (
        f"The operator leads (Lease renewed {max(0.0, age):.0f} s ago by "
        f"{spec['holderIdentity']}): its log says why: "
        f"kubectl logs -n {where} -l app.kubernetes.io/component=operator --tail=50"
    )


def find_silence(cluster: Cluster, now: datetime) -> str | None:
    """Why nobody decides; None where an operator leads, or where that may not be read."""
    try:
        return _describe_silence(_read(cluster), now)
    except Failure:
        return None


def _read(cluster: Cluster) -> Mapping[str, Any] | None:
    leases = list_items(
        cluster,
        "/apis/coordination.k8s.io/v1/leases",
        {"fieldSelector": f"metadata.name={LEASE}"},
    )
    return leases[0] if leases else None


def _describe_silence(lease: Mapping[str, Any] | None, now: datetime) -> str | None:
    if lease is None:
        return (
            "No operator has ever led in this cluster (no Lease llm-rollouts): is it installed? "
            "kubectl get pods -A -l app.kubernetes.io/name=llm-rollouts"
        )
    where, spec = lease["metadata"]["namespace"], lease.get("spec") or {}
    renewed = read_time(spec.get("renewTime"))
    look = f"kubectl get pods -n {where} -l app.kubernetes.io/component=operator"
    if renewed is None or not spec.get("holderIdentity"):
        return f"No operator leads now (Lease {where}/{LEASE} was released): {look}"
    age = (now - renewed).total_seconds()
    if age > SILENT + float(spec.get("leaseDurationSeconds") or 6):
        return (
            f"The operator does not run: its Lease was last renewed at "
            f"{renewed:%Y-%m-%d %H:%M:%S} UTC, {age:.0f} s ago: {look}"
        )
    return None
