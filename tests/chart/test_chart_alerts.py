"""The chart's alerts, as Prometheus itself reads and evaluates them (promtool)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.harness.processes import find_program
from tests.chart.conftest import NAMESPACE, Rendered

pytestmark = pytest.mark.prometheus

OPERATOR = f'up{{namespace="{NAMESPACE}", job="llm-rollouts-operator-metrics", pod="%s"}}'
GATEWAY = f'up{{namespace="{NAMESPACE}", job="{NAMESPACE}/llm-rollouts-gateway", pod="%s"}}'
CHAT = 'namespace="prod", name="chat"'
# By series, in the notation of promtool: value x how often it is repeated, a minute apart.
HEALTHY: Mapping[str, str] = {
    OPERATOR % "a": "1x30",
    OPERATOR % "b": "0x30",
    GATEWAY % "a": "1x30",
    GATEWAY % "b": "1x30",
    f'llmrollouts_deployment_info{{{CHAT}, phase="Serving"}}': "1x30",
    f"llmrollouts_share_lapsed{{{CHAT}}}": "0x30",
    f"llmrollouts_canary_share_asked{{{CHAT}}}": "0.25x30",
    f"llmrollouts_canary_share_measured{{{CHAT}}}": "0.26x30",
    "llmrollouts_bugs_total": "3x30",
}
# What changes, and the only alert that must follow from it.
FAULTS: Mapping[str, Mapping[str, str]] = {
    "LLMRolloutsOperatorDown": {OPERATOR % "a": "0x30"},
    "LLMRolloutsDegraded": {f'llmrollouts_deployment_info{{{CHAT}, phase="Degraded"}}': "1x30"},
    "LLMRolloutsFailed": {f'llmrollouts_deployment_info{{{CHAT}, phase="Failed"}}': "1x30"},
    "LLMRolloutsHeld": {f'llmrollouts_deployment_info{{{CHAT}, phase="Held"}}': "1x30"},
    "LLMRolloutsShareLapsed": {f"llmrollouts_share_lapsed{{{CHAT}}}": "1x30"},
    "LLMRolloutsShareTooHigh": {f"llmrollouts_canary_share_measured{{{CHAT}}}": "0.6x30"},
    "LLMRolloutsBug": {"llmrollouts_bugs_total": "3+1x30"},
    "LLMRolloutsGatewayDown": {GATEWAY % "b": "0x30"},
}
# Longer than every `for` of the rules.
MINUTES = 20


@pytest.fixture
def rules(render: Callable[..., Rendered], tmp_path: Path) -> Path:
    rendered = render(monitoring={"enabled": True})
    path = tmp_path / "rules.yml"
    spec = rendered.find("PrometheusRule", "llm-rollouts")["spec"]
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return path


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find_program("promtool"), *words], capture_output=True, text=True, timeout=60, check=False
    )


def read_alerts(rules: Path) -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def evaluate(
    rules: Path, series: Mapping[str, str], expected: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Every alert after ``MINUTES``: the expected ones fire, the others do not."""
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": text} for name, text in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertstate="firing", alertname="{name}"}})',
                    "eval_time": f"{MINUTES}m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if name in expected else [],
                }
                for name in read_alerts(rules)
            ],
        }
    ]
    path = rules.with_name("test.yml")
    path.write_text(yaml.safe_dump({"rule_files": [rules.name], "tests": tests}), encoding="utf-8")
    return promtool("test", "rules", str(path))


def test_prometheus_takes_the_rules(rules: Path) -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(rules))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(FAULTS)} rules found" in done.stdout


def test_prometheus_refuses_a_broken_rule(rules: Path) -> None:
    rules.write_text(rules.read_text(encoding="utf-8").replace("absent(", "absent(("))
    assert promtool("check", "rules", str(rules)).returncode != 0


def test_every_alert_has_a_fault_here(rules: Path) -> None:
    assert set(read_alerts(rules)) == set(FAULTS)


def test_nothing_fires_while_all_is_well(rules: Path) -> None:
    done = evaluate(rules, HEALTHY, ())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", FAULTS)
def test_each_fault_fires_its_own_alert_and_no_other(rules: Path, alert: str) -> None:
    done = evaluate(rules, {**HEALTHY, **FAULTS[alert]}, [alert])
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_any_series_the_operator_and_the_gateways_count_as_down(rules: Path) -> None:
    done = evaluate(rules, {}, ["LLMRolloutsOperatorDown", "LLMRolloutsGatewayDown"])
    assert done.returncode == 0, done.stdout + done.stderr
