"""What the chart installs: goldens of whole renderings, and what must hold in each of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import helm_python
import pytest
import yaml

from e2e.install import CHART
from llmrollouts.api import labels
from tests.chart.conftest import NAMESPACE, Rendered
from tools.chart_files import CRD, list_differing

GOLDEN = Path(__file__).parent / "golden"
DIGEST = f"sha256:{'0123456789abcdef' * 4}"
CASES: dict[str, dict[str, object]] = {
    "defaults": {},
    "everything": {
        "imageRegistry": "registry.example/llm",
        "imagePullSecrets": [{"name": "registry"}],
        "commonLabels": {"team": "platform"},
        "operator": {
            "image": {"repository": "operator", "digest": DIGEST},
            "nodeSelector": {"role": "system"},
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example"}],
            "allowedPrometheus": ["https://prometheus.monitoring.svc:9090", "http://thanos/team"],
        },
        "rbac": {"prometheusSecretsIn": ["prod", "staging"]},
        "httpRoute": {"enabled": True},
        "gateway": {
            "replicas": 5,
            "image": {"tag": "1.2.3"},
            "service": {"type": "LoadBalancer", "annotations": {"example.com/scope": "internal"}},
            "tolerations": [{"key": "edge", "operator": "Exists"}],
            "priorityClassName": "high",
        },
        "worker": {
            "engineImageGPU": f"registry.example/vllm@{DIGEST}",
            "allowedImages": ["registry.example/"],
            "modelEnvironment": {"HF_ENDPOINT": "https://models.example"},
        },
        "networkPolicies": {
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "usersFrom": [{"namespaceSelector": {"matchLabels": {"llm": "client"}}}],
            "workersIn": ["prod"],
        },
        "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
    },
}
Render = Callable[..., Rendered]


def to_text(rendered: Rendered) -> str:
    """Without the CRD and the start files: other tests compare those with their makers."""
    shown = []
    for o in rendered.objects:
        if o["kind"] == "CustomResourceDefinition":
            continue
        if o["kind"] == "ConfigMap":
            shown.append({**o, "data": dict.fromkeys(o["data"], "(compared elsewhere)")})
        else:
            shown.append(o)
    text = yaml.safe_dump_all(shown, sort_keys=True, width=100)
    return re.sub(r"(start-files:) [0-9a-f]{64}", r"\1 (hash of the start files)", text)


@pytest.mark.parametrize("case", CASES)
def test_rendering_equals_its_golden(case: str, render: Render) -> None:
    text = to_text(render(**CASES[case]))
    golden = GOLDEN / f"{case}.yaml"
    if os.environ.get("GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), "see the difference; make chart writes anew"


@pytest.mark.parametrize("case", CASES)
def test_lint_finds_nothing(case: str) -> None:
    report = helm_python.lint(CHART, CASES[case], strict=True, kube_version="v1.35.0")
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


def test_carried_files_equal_what_their_makers_make() -> None:
    assert list_differing() == []


def test_crd_is_the_repositorys_and_is_kept_on_uninstall(render: Render) -> None:
    crd = render().find("CustomResourceDefinition", "llmdeployments.llmrollouts.dev")
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert crd["spec"] == yaml.safe_load(CRD.read_text(encoding="utf-8"))["spec"]


def test_crd_can_be_left_out_or_left_to_uninstall(render: Render) -> None:
    assert "CustomResourceDefinition" not in render(crds={"enabled": False}).kinds()
    crd = render(crds={"keep": False}).find(
        "CustomResourceDefinition", "llmdeployments.llmrollouts.dev"
    )
    assert "helm.sh/resource-policy" not in crd["metadata"].get("annotations", {})


def test_gateway_start_files_name_the_operator_of_this_namespace(render: Render) -> None:
    data = render().find("ConfigMap", "llm-rollouts-gateway")["data"]
    bootstrap = yaml.safe_load(data["envoy.yaml"])
    clusters = {c["name"]: c for c in bootstrap["static_resources"]["clusters"]}
    endpoint = clusters["xds"]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"] == {
        "address": f"llm-rollouts-xds.{NAMESPACE}.svc",
        "port_value": 18000,
    }
    assert "{{" not in "".join(data.values())


def test_changed_start_files_restart_the_gateways_and_an_upgrade_of_the_chart_does_not(
    render: Render,
) -> None:
    template = render().find("Deployment", "llm-rollouts-gateway")["spec"]["template"]
    assert "llmrollouts.dev/start-files" in template["metadata"]["annotations"]
    assert "helm.sh/chart" not in template["metadata"]["labels"]
    assert "app.kubernetes.io/version" not in template["metadata"]["labels"]


def test_image_is_named_by_registry_and_digest_where_given(render: Render) -> None:
    specs = render(**CASES["everything"]).pod_specs()
    assert (
        specs["llm-rollouts-operator"]["containers"][0]["image"]
        == f"registry.example/llm/operator@{DIGEST}"
    )
    assert (
        specs["llm-rollouts-gateway"]["containers"][0]["image"]
        == "registry.example/llm/llm-rollouts/gateway:1.2.3"
    )


@pytest.mark.parametrize("name", ["llm-rollouts-operator", "llm-rollouts-gateway"])
def test_pods_meet_the_restricted_pod_security_standard(name: str, render: Render) -> None:
    pod = render().pod_specs()[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    allowed = {"configMap", "emptyDir", "secret", "name"}
    assert all(set(volume) <= allowed for volume in pod["volumes"])
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_gateways_never_get_fewer_and_let_open_answers_end(render: Render) -> None:
    deployment = render().find("Deployment", "llm-rollouts-gateway")
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    pod = deployment["spec"]["template"]["spec"]
    command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    within = int(command[command.index("--within") + 1])
    assert pod["terminationGracePeriodSeconds"] > within


def test_gateways_hold_no_token_of_the_api_server(render: Render) -> None:
    assert render().pod_specs()["llm-rollouts-gateway"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("component", ["operator", "gateway"])
def test_one_replica_has_no_budget_that_would_block_a_drain(component: str, render: Render) -> None:
    name = f"llm-rollouts-{component}"
    assert render().find("PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1
    alone = render(**{component: {"replicas": 1}})
    assert name not in {
        o["metadata"]["name"] for o in alone.objects if o["kind"] == "PodDisruptionBudget"
    }


def test_xds_service_names_both_replicas_before_they_are_ready(render: Render) -> None:
    spec = render().find("Service", "llm-rollouts-xds")["spec"]
    assert spec["clusterIP"] == "None"
    assert spec["publishNotReadyAddresses"] is True
    assert [p["port"] for p in spec["ports"]] == [18000]


def test_only_gateways_reach_the_xds_port(render: Render) -> None:
    policy = render().find("NetworkPolicy", "llm-rollouts-operator")
    peers = [
        peer
        for rule in policy["spec"]["ingress"]
        if any(port["port"] == "xds" for port in rule["ports"])
        for peer in rule["from"]
    ]
    gateway = render().find("Deployment", "llm-rollouts-gateway")["spec"]["selector"]
    assert peers == [{"podSelector": gateway}]


def test_the_operator_reaches_the_samples_of_workers_whose_ports_are_closed(
    render: Render,
) -> None:
    rendered = render(networkPolicies={"workersIn": ["prod", "dev"]})
    policies = [o for o in rendered.objects if o["metadata"]["name"] == "llm-rollouts-workers"]
    assert [p["metadata"]["namespace"] for p in policies] == ["prod", "dev"]
    operator = rendered.find("Deployment", "llm-rollouts-operator")["spec"]["selector"]
    for policy in policies:
        assert policy["spec"]["podSelector"]["matchExpressions"][0]["key"] == labels.DEPLOYMENT
        peers = [
            (peer.get("podSelector"), [port["port"] for port in rule["ports"]])
            for rule in policy["spec"]["ingress"]
            for peer in rule["from"]
        ]
        assert (operator, ["launcher"]) in peers


def test_every_alert_has_a_runbook(render: Render) -> None:
    rule = render(**CASES["everything"]).find("PrometheusRule", "llm-rollouts")
    alerts = [a for group in rule["spec"]["groups"] for a in group["rules"]]
    runbooks = CHART.parent.parent / "docs" / "runbooks"
    assert alerts
    for alert in alerts:
        file = alert["annotations"]["runbook_url"].rsplit("/", 1)[1]
        assert (runbooks / file).is_file(), alert["alert"]
        assert alert["alert"] in (runbooks / file).read_text(encoding="utf-8")
