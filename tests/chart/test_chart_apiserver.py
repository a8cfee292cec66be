"""A real API server accepts every object of the chart, with nothing in it that it would drop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from tests.apiserver import ApiServer
from tests.chart.conftest import NAMESPACE, Rendered
from tests.chart.test_chart_rendering import CASES

pytestmark = pytest.mark.apiserver


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_accepted(
    case: str, render: Callable[..., Rendered], apiserver: ApiServer
) -> None:
    objects = [
        o
        for o in render(**CASES[case]).objects
        if not o["apiVersion"].startswith("monitoring.coreos.com/")
    ]
    for name in {NAMESPACE, *(o["metadata"].get("namespace", NAMESPACE) for o in objects)}:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        apiserver.request("POST", "/api/v1/namespaces", namespace)
    done = apiserver.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-",
        stdin=yaml.safe_dump_all(objects),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("serverside-applied") == len(objects)
    assert "Warning" not in done.stderr
