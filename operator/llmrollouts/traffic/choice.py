"""Which provider splits the users of which deployment, behind the one TrafficPort.

A deployment whose traffic names an HTTPRoute is split by its weights; the built-in gateway goes on
serving it from its stable revision, without any share, so that nobody is cut off while users move
from the one to the other. It decides nothing else. Used by every part of the controller.
"""

from __future__ import annotations

from dataclasses import replace

from llmrollouts.api.share import NONE
from llmrollouts.rollout.intent import DeploymentTraffic, TrafficObservation
from llmrollouts.traffic.httproute import HTTPRouteTraffic
from llmrollouts.traffic.port import TrafficPort


class ChosenTraffic:
    """Implements TrafficPort."""

    def __init__(self, gateway: TrafficPort, routes: HTTPRouteTraffic) -> None:
        self._gateway = gateway
        self._routes = routes

    def program(self, traffic: DeploymentTraffic) -> None:
        if traffic.rule is None:
            self._routes.release(traffic.uid)
            self._gateway.program(traffic)
        else:
            self._routes.program(traffic)
            self._gateway.program(_without_shares(traffic))

    def renew(self, uid: str) -> None:
        self._routes.renew(uid)
        self._gateway.renew(uid)

    def forget(self, uid: str) -> None:
        self._routes.forget(uid)
        self._gateway.forget(uid)

    def observe(self, uid: str) -> TrafficObservation:
        gateway = self._gateway.observe(uid)
        if not self._routes.knows(uid):
            return gateway
        route = self._routes.observe(uid)
        if gateway.gateways == 0:
            return route
        # Workers leave only when nobody can be sent to them, by either way.
        return replace(route, settled=route.settled and gateway.settled)


def _without_shares(traffic: DeploymentTraffic) -> DeploymentTraffic:
    revisions = tuple(replace(r, share=NONE, mirror=NONE) for r in traffic.revisions)
    return replace(traffic, revisions=revisions, rule=None)
