"""Given for every end-to-end test: the local cluster, the images and an installed operator."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.environment import Environment, prepare
from e2e.harness.kube import Kube
from e2e.harness.namespaces import a_clean_start, make_anew
from e2e.harness.scenario import Chat


@pytest.fixture(scope="session")
def environment() -> Iterator[Environment]:
    """Brings up whatever is missing; says what it does. Nothing of an ended session is left."""
    prepared = prepare(["operator", "gateway", "worker", "fake-engine"])
    with a_clean_start(prepared.kube):
        yield prepared


@pytest.fixture(scope="session")
def kube(environment: Environment) -> Kube:
    return environment.kube


@pytest.fixture
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one test, deleted afterwards (with LLMR_KEEP=1: by the next session)."""
    whole = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    # Long names of one test's variants begin alike; a digest tells them apart.
    digest = hashlib.sha256(whole.encode()).hexdigest()[:6]
    name = f"e2e-{whole[:33].strip('-')}-{digest}"
    make_anew(kube, name)
    yield name
    if not os.environ.get("LLMR_KEEP"):
        kube.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.fixture
def chat(environment: Environment, namespace: str) -> Callable[..., Chat]:
    """Makes an LLMDeployment of fake engines in the test's own namespace."""

    def make(**options: object) -> Chat:
        chosen = {"image": environment.images["fake-engine"], "namespace": namespace, **options}
        return Chat(environment.kube, environment.gateway, **chosen)  # type: ignore[arg-type]  # as in Chat

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
