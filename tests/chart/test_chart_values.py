"""values.schema.json refuses what would fail later, with the name of the value in the message."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import helm_python
import pytest
import yaml

from e2e.install import CHART
from tests.chart.conftest import Rendered

BAD: dict[str, dict[str, object]] = {
    "operators": {"operators": {}},
    "replicas": {"operator": {"replicas": 0}},
    "digest": {"gateway": {"image": {"digest": "0123"}}},
    "tag": {"gateway": {"image": {"tag": "a b"}}},
    "repository": {"worker": {"image": {"repository": ""}}},
    "pullPolicy": {"worker": {"image": {"pullPolicy": "Sometimes"}}},
    "logLevel": {"operator": {"logLevel": "loud"}},
    "type": {"gateway": {"service": {"type": "ExternalName"}}},
    "allowedPrometheus": {"operator": {"allowedPrometheus": ["https://me:word@prom.example"]}},
    "prometheusSecretsIn": {"rbac": {"prometheusSecretsIn": ["*"]}},
    "enabled": {"httpRoute": {"enabled": "yes"}},
    "requireImageDigests": {"worker": {"requireImageDigests": "no"}},
    "allowedImages": {"worker": {"allowedImages": ["a,b"]}},
    "modelEnvironment": {"worker": {"modelEnvironment": {"HF_ENDPOINT": 1}}},
    "metricsFrom": {"networkPolicies": {"metricsFrom": []}},
    "interval": {"monitoring": {"interval": "soon"}},
    "imageRegistry": {"imageRegistry": "registry.example/"},
    "nodePort": {"gateway": {"service": {"nodePort": 70000}}},
}


@pytest.mark.parametrize("value", BAD)
def test_bad_value_is_refused_by_name(value: str, render: Callable[..., Rendered]) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=value):
        render(**BAD[value])


def _keys(values: object, path: str = "") -> Iterator[str]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield f"{path}.{key}"
            yield from _keys(value, f"{path}.{key}")


def test_every_default_is_known_to_the_schema_and_every_value_has_a_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    with helm_python.Chart.load(CHART) as chart:
        schema = chart.schema
    assert schema is not None

    def described(node: dict[str, object], path: str = "") -> Iterator[str]:
        reference = node.get("$ref")
        if isinstance(reference, str):
            node = schema["$defs"][reference.rsplit("/", 1)[1]]
        properties = node.get("properties")
        if isinstance(properties, dict) and node.get("additionalProperties") is False:
            for key, child in properties.items():
                yield f"{path}.{key}"
                yield from described(child, f"{path}.{key}")

    free = (".requests", ".limits", "metricsFrom", "usersFrom", ".global")
    in_schema = {k for k in described(schema) if not any(part in k for part in free)}
    in_values = {k for k in _keys(values) if not any(part in k for part in free)}
    assert in_schema == in_values
