"""Which revision answers a request: the routes of one deployment, and the frame around all.

In this order: a revision named by header; a fraction for each canary; the default. Fractions and
mirrors are runtime keys that default to 0, so what the proxies fall back to when the operator is
silent is the default alone.

Envoy draws one random number for each request, and every fraction of the request is compared with
it. So the key of the second canary is the sum of both shares, and the key of a mirror is the sum
of all shares plus the wanted one (layer.py computes both; the order of the canaries here and there
is the same). Pure; called by translation.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from llmrollouts.api.labels import MIRRORED_HEADER, REVISION_HEADER
from llmrollouts.rollout.intent import DeploymentTraffic, RevisionTraffic
from llmrollouts.traffic.document import Document, typed
from llmrollouts.traffic.names import (
    METADATA,
    ROUTES,
    ClusterName,
    base_path,
    mirror_key,
    share_key,
)
from llmrollouts.traffic.settings import GatewaySettings

_ROUTE_LIST: Final = "envoy.config.route.v3.RouteList"
# Failures before the first byte of an answer. Generation has no side effect, so a request that
# was cut before it was answered may be sent again.
_RETRY_CANARY: Final = "connect-failure,refused-stream,reset-before-request,reset,5xx"
_RETRY_DEFAULT: Final = (
    "connect-failure,refused-stream,reset-before-request,reset,retriable-status-codes"
)


def canaries(traffic: DeploymentTraffic) -> tuple[RevisionTraffic, ...]:
    """The revisions that may get a share, in the order in which their routes stand."""
    others = (r for r in traffic.revisions if r.revision != traffic.default)
    return tuple(sorted(others, key=lambda r: r.revision))


def make_routes(traffic: DeploymentTraffic, settings: GatewaySettings) -> list[Document]:
    """All routes of one deployment. Depends on which revisions live, which one is the default and
    whether one has a fallback; not on shares, mirrors or endpoints."""
    path = base_path(traffic.namespace, traffic.name)
    users: Document = {"path_separated_prefix": path}
    others = canaries(traffic)
    routes: list[Document] = []
    for revision in traffic.revisions:
        match = {**users, "headers": [_named(revision.revision)]}
        routes.append(_to(traffic, revision, match, settings))
    routes.append(
        _answer(
            {**users, "headers": [{"name": REVISION_HEADER, "present_match": True}]},
            404,
            "revision_not_found",
            f"The header {REVISION_HEADER} names no living revision of "
            f"{traffic.namespace}/{traffic.name}. Leave the header out to be served by the "
            "current one, or take a name from: kubectl llm status "
            f"{traffic.name} -n {traffic.namespace}",
        )
    )
    if traffic.default is None:
        routes.append(
            _answer(
                users,
                503,
                "not_serving_yet",
                f"{traffic.namespace}/{traffic.name} is not serving yet: its first revision is "
                f"starting. See: kubectl llm status {traffic.name} -n {traffic.namespace}",
            )
        )
    else:
        for revision in others:
            match = {
                **users,
                "runtime_fraction": _fraction(share_key(traffic.uid, revision.revision)),
            }
            routes.append(_to(traffic, revision, match, settings))
        default = next((r for r in traffic.revisions if r.revision == traffic.default), None)
        if default is None:
            raise ValueError(
                f"the default {traffic.default!r} of {traffic.namespace}/{traffic.name} is none "
                "of its living revisions"
            )
        routes.append(_to(traffic, default, users, settings, mirrors=others))
    routes.append(
        _answer(
            {"prefix": "/"},
            404,
            "path_not_found",
            f"{traffic.namespace}/{traffic.name} serves the OpenAI API below {path}/ only. "
            f"Set your client's base URL to http://<gateway>{path}",
        )
    )
    return routes


def make_table(traffic: DeploymentTraffic, settings: GatewaySettings) -> Document:
    """A virtual host's matcher that knows this one deployment; many of them merge into one."""
    return {
        "matcher": {
            "matcher_tree": {
                "prefix_match_map": {
                    "map": {
                        f"/{traffic.namespace}/{traffic.name}/": {
                            "action": {
                                "name": "routes",
                                "typed_config": typed(
                                    _ROUTE_LIST, routes=make_routes(traffic, settings)
                                ),
                            }
                        }
                    }
                }
            }
        }
    }


def make_frame(settings: GatewaySettings, *, empty: bool) -> tuple[Document, Document]:
    """The route configuration without its virtual host, and the virtual host without deployments:
    it answers what belongs to none. ``empty``: no table will be merged into it."""
    nowhere = _answer(
        {"prefix": "/"},
        404,
        "deployment_not_found",
        "No LLMDeployment is served under this path. Use /<namespace>/<name>/v1 as the path of "
        "your client's base URL; kubectl llm list shows what there is.",
    )
    host: Document = {
        "name": "users",
        "domains": ["*"],
        # A larger body is passed on as it comes, but cannot be sent a second time.
        "request_body_buffer_limit": settings.retry_body,
        "response_headers_to_add": [
            {
                "header": {
                    "key": REVISION_HEADER,
                    "value": f"%UPSTREAM_METADATA({METADATA}:revision)%",
                },
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }
    if empty:
        # The proxies refuse a table without entries.
        host["routes"] = [nowhere]
    else:
        host["matcher"] = {
            "matcher_tree": {
                "input": {
                    "name": "path",
                    "typed_config": typed(
                        "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path"
                    ),
                }
            },
            "on_no_match": {
                "action": {
                    "name": "nowhere",
                    "typed_config": typed("envoy.config.route.v3.Route", **nowhere),
                }
            },
        }
    table: Document = {
        "name": ROUTES,
        # An unknown cluster would otherwise be accepted and answer 503 to everyone.
        "validate_clusters": True,
        "max_direct_response_body_size_bytes": 4096,
    }
    return table, host


def _to(
    traffic: DeploymentTraffic,
    revision: RevisionTraffic,
    match: Document,
    settings: GatewaySettings,
    mirrors: Sequence[RevisionTraffic] = (),
) -> Document:
    """A route to the workers of one revision."""
    action: Document = {
        "cluster": str(ClusterName("live", traffic.uid, revision.revision)),
        "prefix_rewrite": "/v1",
        # No limit on the whole answer: generations are long. What stands still is ended.
        "timeout": "0s",
        "idle_timeout": f"{settings.idle_timeout:g}s",
        "retry_policy": _retry(to_fallback=revision.fallback is not None),
    }
    if mirrors:
        action["request_mirror_policies"] = [_mirror(traffic, other) for other in mirrors]
    return {"match": match, "route": action}


def _retry(*, to_fallback: bool) -> Document:
    policy: Document = {
        "num_retries": 1,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
    }
    if to_fallback:
        policy["retry_on"] = _RETRY_CANARY
        policy["retry_priority"] = {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": typed(
                "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                update_frequency=1,
            ),
        }
    else:
        policy["retry_on"] = _RETRY_DEFAULT
        policy["retriable_status_codes"] = [503]
        policy["retry_host_predicate"] = [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": typed(
                    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                ),
            }
        ]
        # The balancer prefers the worker with the fewest requests, which a failing one often is:
        # five draws would come out at the same worker again for one retry in a hundred.
        policy["host_selection_retry_max_attempts"] = 100
    return policy


def _mirror(traffic: DeploymentTraffic, revision: RevisionTraffic) -> Document:
    return {
        "cluster": str(ClusterName("mirror", traffic.uid, revision.revision)),
        "runtime_fraction": _fraction(mirror_key(traffic.uid, revision.revision)),
        "request_headers_mutations": [
            {
                "append": {
                    "header": {"key": MIRRORED_HEADER, "value": "1"},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            }
        ],
    }


def _fraction(key: str) -> Document:
    return {"default_value": {"numerator": 0, "denominator": "MILLION"}, "runtime_key": key}


def _named(revision: str) -> Document:
    return {"name": REVISION_HEADER, "string_match": {"exact": revision}}


def _answer(match: Document, status: int, code: str, message: str) -> Document:
    """An answer of the gateway itself, in the form in which OpenAI clients expect errors."""
    body = {"error": {"message": message, "type": "llm_rollouts", "param": None, "code": code}}
    return {
        "match": match,
        "direct_response": {
            "status": status,
            "body": {"inline_string": json.dumps(body)},
        },
        "response_headers_to_add": [
            {
                "header": {"key": "content-type", "value": "application/json"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }
