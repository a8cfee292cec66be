"""Renders the chart the way Helm does; used by the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from e2e.install import Json, render_chart

NAMESPACE = "llm-rollouts-system"


@dataclass(frozen=True)
class Rendered:
    """The chart's objects for one set of values."""

    objects: Sequence[Json] = field(default_factory=list)

    def find(self, kind: str, name: str) -> Json:
        found = [o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
        return found[0]

    def kinds(self) -> set[str]:
        return {o["kind"] for o in self.objects}

    def pod_specs(self) -> dict[str, Json]:
        """By the name of the Deployment."""
        return {
            o["metadata"]["name"]: o["spec"]["template"]["spec"]
            for o in self.objects
            if o["kind"] == "Deployment"
        }

    def rules(self) -> list[Json]:
        """The rules of all Roles and ClusterRoles of the operator."""
        return [
            rule
            for o in self.objects
            if o["kind"] in {"Role", "ClusterRole"}
            and o["metadata"]["name"] == "llm-rollouts-operator"
            for rule in o["rules"]
        ]


@pytest.fixture(scope="session")
def render() -> Callable[..., Rendered]:
    """``render(**values)``: what an installation with these values applies."""

    texts: dict[str, str] = {}

    def rendered(**values: object) -> Rendered:
        # Helm gives the same for the same values: rendered once, and every test gets its own copy.
        asked = json.dumps(values, sort_keys=True)
        if asked not in texts:
            texts[asked] = json.dumps(render_chart(values, NAMESPACE))
        return Rendered(json.loads(texts[asked]))

    return rendered
