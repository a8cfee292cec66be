"""How users reach the workers, in the words of the CLI: by the built-in gateways or by a route.

What "everybody is back" rests on differs: every gateway acknowledges, or the weights of an
HTTPRoute are written and read back, and when the user's own gateway carries them is not known.
Decides nothing. Used by orders, screen and main.
"""

from __future__ import annotations

from llmrollouts.api.manifest import Manifest


def read_route(manifest: Manifest) -> str | None:
    """The name of the HTTPRoute that the spec of an LLMDeployment gives; None: the gateways."""
    traffic = (manifest.get("spec") or {}).get("traffic") or {}
    if traffic.get("provider") != "HTTPRoute":
        return None
    return str((traffic.get("httpRoute") or {}).get("name") or "")


def describe_confirmation(route: str | None) -> str:
    """What a rollback was confirmed by, after "confirmed by"."""
    return "every gateway" if route is None else f"HTTPRoute {route}, read back,"


def describe_late(route: str | None, namespace: str, wait: float) -> tuple[str, str]:
    """A rollback that was decided and not confirmed within ``wait`` seconds: what that means for
    users, and where to look."""
    if route is None:
        told = (
            f"The rollback was decided, but not every gateway confirmed it within {wait:.0f} s. A "
            "gateway that hears nothing takes the share to 0 within 12 s."
        )
        look = (
            "See which gateway is missing: kubectl get pods -A "
            "-l app.kubernetes.io/name=llm-rollouts,app.kubernetes.io/component=gateway"
        )
    else:
        told = (
            f"The rollback was decided, but HTTPRoute {route} did not read back with weight 0 "
            f"within {wait:.0f} s. Its weights have no time to live: users may stay on the canary "
            "until they are written."
        )
        look = (
            "See what the route says and why: condition RouteProgrammed in kubectl llm status, and "
            f"kubectl get httproute {route} -n {namespace} -o yaml"
        )
    return told, look
