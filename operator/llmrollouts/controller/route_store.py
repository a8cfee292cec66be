"""The HTTPRoute provider's reads and writes over the Kubernetes API.

It decides which answer of the API server is a person's to mend, and that a Service of another
owner is never taken. Every write goes through the fenced writer. Used by traffic/httproute.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

from llmrollouts.api import labels
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.reasons import Reason
from llmrollouts.controller.errors import NotLeading
from llmrollouts.controller.fence import ChildWriter
from llmrollouts.controller.ownership import belongs_to
from llmrollouts.kube.port import (
    ENDPOINT_SLICE,
    HTTP_ROUTE,
    SERVICE,
    Conflict,
    KubeError,
    NotFound,
    Reader,
    Rejected,
)
from llmrollouts.resources.children import Owner
from llmrollouts.resources.services import Side, make_service, selected_revision, service_name
from llmrollouts.rollout.intent import TrafficProblem
from llmrollouts.traffic.route_port import Moved, NotAllowed, Unreachable
from llmrollouts.traffic.weights import UnusableRoute

_OF_SERVICE: Final = "kubernetes.io/service-name"
T = TypeVar("T")


class KubeRoutes:
    """Implements RouteStore."""

    def __init__(self, reader: Reader, writer: ChildWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read_route(self, namespace: str, name: str) -> Manifest:
        try:
            return await _translate(self._reader.get(HTTP_ROUTE, namespace, name))
        except NotFound as error:
            raise UnusableRoute(_describe_absence(namespace, name, error)) from error

    async def patch_route(
        self, namespace: str, name: str, operations: Sequence[Manifest]
    ) -> Manifest:
        try:
            return await _translate(self._writer.patch(HTTP_ROUTE, namespace, name, operations))
        except NotFound as error:
            raise Moved(str(error)) from error

    async def point_service(self, owner: Owner, side: Side, revision: str) -> bool:
        name = service_name(owner.name, side)
        wanted = make_service(owner, side, revision)
        try:
            found = await _translate(self._reader.get(SERVICE, owner.namespace, name))
        except NotFound:
            await _translate(self._writer.create(SERVICE, wanted))
            return True
        if not _is_ours(found, owner):
            raise UnusableRoute(
                TrafficProblem(
                    Reason.SERVICE_TAKEN,
                    f"Service {owner.namespace}/{name} exists and belongs to another: rename or "
                    "delete it, the operator makes one of that name",
                )
            )
        if selected_revision(found) == revision:
            return False
        await _translate(self._writer.apply(SERVICE, wanted))
        return True

    async def read_endpoints(self, owner: Owner, side: Side) -> frozenset[str]:
        selector = {_OF_SERVICE: service_name(owner.name, side)}
        slices = await _translate(self._reader.list(ENDPOINT_SLICE, owner.namespace, selector))
        return frozenset(
            endpoint["targetRef"]["name"]
            for found in slices
            for endpoint in found.get("endpoints") or []
            if (endpoint.get("targetRef") or {}).get("kind") == "Pod"
            and (endpoint.get("conditions") or {}).get("ready") is not False
        )


async def _translate(asked: Awaitable[T]) -> T:
    """NotFound passes: what it means depends on what was asked for."""
    try:
        return await asked
    except NotFound:
        raise
    except Conflict as error:
        raise Moved(str(error)) from error
    except Rejected as error:
        told = (
            f"{error}. If a right is missing: the administrator gives it with the chart's value "
            "httpRoute.enabled=true"
        )
        raise UnusableRoute(TrafficProblem(Reason.ROUTE_REFUSED, told)) from error
    except KubeError as error:
        raise Unreachable(str(error)) from error
    except NotLeading as error:
        raise NotAllowed(str(error)) from error


def _describe_absence(namespace: str, name: str, error: NotFound) -> TrafficProblem:
    # The server names the object only where it knows the kind.
    if f'"{name}" not found' in str(error):
        return TrafficProblem(
            Reason.ROUTE_MISSING,
            f"HTTPRoute {namespace}/{name} does not exist: create it, or mend "
            "spec.traffic.httpRoute.name",
        )
    return TrafficProblem(
        Reason.ROUTE_API_MISSING,
        "the cluster knows no HTTPRoute: install the CustomResourceDefinitions of the Gateway API "
        "(v1, standard channel), or use spec.traffic.provider Gateway",
    )


def _is_ours(service: Manifest, owner: Owner) -> bool:
    told = service["metadata"].get("labels") or {}
    return belongs_to(service, owner.uid) and told.get(labels.MANAGED_BY) == labels.FIELD_MANAGER
