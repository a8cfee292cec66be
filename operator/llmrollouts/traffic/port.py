"""The port to whatever splits the users' requests: the built-in gateway, or HTTPRoute weights."""

from __future__ import annotations

from typing import Protocol

from llmrollouts.rollout.intent import DeploymentTraffic, TrafficObservation


class TrafficPort(Protocol):
    """Splits user requests as told. All methods return at once; none raises for a slow proxy."""

    def program(self, traffic: DeploymentTraffic) -> None:
        """Ask for ``traffic`` from now on. The same value again costs nothing."""

    def renew(self, uid: str) -> None:
        """Renew the leases of this deployment's shares and mirrors: a round was completed on
        fresh evidence. Without it they fall to 0 within the lease time."""

    def forget(self, uid: str) -> None:
        """The deployment is gone: take all of it out of the proxies."""

    def observe(self, uid: str) -> TrafficObservation:
        """What is programmed, acknowledged and measured now."""
