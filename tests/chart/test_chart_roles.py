"""What the operator may do in a cluster: as little as it needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chart.conftest import Rendered

Render = Callable[..., Rendered]
OWN_SECRETS = ["llm-rollouts-ca", "llm-rollouts-xds-tls", "llm-rollouts-gateway-tls"]


def test_no_rule_has_a_wildcard(render: Render) -> None:
    for rule in render().rules():
        for part in ("apiGroups", "resources", "verbs", "resourceNames"):
            assert "*" not in rule.get(part, [])


def test_secrets_are_never_listed_or_watched_and_only_our_own_are_read(render: Render) -> None:
    rules = [r for r in render().rules() if "secrets" in r["resources"]]
    assert rules
    for rule in rules:
        assert set(rule["verbs"]) <= {"get", "create", "update", "patch"}
        if rule["verbs"] != ["create"]:
            assert rule["resourceNames"] == OWN_SECRETS


def test_secrets_are_reached_in_the_own_namespace_only(render: Render) -> None:
    role = render().find("ClusterRole", "llm-rollouts-operator")
    reachable = {resource for rule in role["rules"] for resource in rule["resources"]}
    assert not reachable & {"secrets", "leases", "endpointslices"}


def test_the_spec_of_a_user_cannot_be_created_or_deleted(render: Render) -> None:
    rule = next(r for r in render().rules() if r["resources"] == ["llmdeployments"])
    assert not {"create", "update", "delete", "deletecollection"} & set(rule["verbs"])


@pytest.mark.parametrize("danger", ["pods/exec", "pods/attach", "nodes", "roles", "clusterroles"])
def test_nothing_that_leads_to_more_rights_is_allowed(danger: str, render: Render) -> None:
    assert all(danger not in rule["resources"] for rule in render().rules())


def test_people_get_rights_by_aggregation_only_if_wanted(render: Render) -> None:
    names = {o["metadata"]["name"] for o in render().objects if o["kind"] == "ClusterRole"}
    assert {"llm-rollouts-edit", "llm-rollouts-view"} <= names
    without = render(rbac={"aggregate": False})
    assert "llm-rollouts-edit" not in {o["metadata"]["name"] for o in without.objects}


def test_secrets_of_users_are_got_only_where_the_values_say_and_never_listed(
    render: Render,
) -> None:
    assert "RoleBinding/llm-rollouts-prometheus-secrets" not in _names(render())
    rendered = render(rbac={"prometheusSecretsIn": ["prod", "staging"]})
    role = rendered.find("ClusterRole", "llm-rollouts-prometheus-secrets")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
    bindings = [
        o
        for o in rendered.objects
        if o.get("roleRef", {}).get("name") == "llm-rollouts-prometheus-secrets"
    ]
    assert {(o["kind"], o["metadata"]["namespace"]) for o in bindings} == {
        ("RoleBinding", "prod"),
        ("RoleBinding", "staging"),
    }


def _names(rendered: Rendered) -> set[str]:
    return {f"{o['kind']}/{o['metadata']['name']}" for o in rendered.objects}


def test_routes_and_services_are_reached_only_where_routes_are_enabled(render: Render) -> None:
    names = {"httproutes", "services", "endpointslices"}

    def reached(rendered: Rendered) -> dict[str, list[str]]:
        role = rendered.find("ClusterRole", "llm-rollouts-operator")
        return {
            resource: rule["verbs"]
            for rule in role["rules"]
            for resource in rule["resources"]
            if resource in names
        }

    assert reached(render()) == {}
    assert reached(render(httpRoute={"enabled": True})) == {
        "httproutes": ["get", "patch"],
        "services": ["get", "create", "patch"],
        "endpointslices": ["list"],
    }
