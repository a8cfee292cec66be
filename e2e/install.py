"""Installs, upgrades and removes the chart on a cluster without a helm binary.

``python -m e2e.install --namespace NS --values FILE`` renders the chart with Helm's own engine,
applies every object server-side, removes what an earlier release had and this one has not, and
waits until both Deployments are ready. Run it again at will: it changes what differs. It keeps no
release record, so an installation made by ``helm install`` should be upgraded by ``helm upgrade``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import helm_python
import yaml

from e2e.cluster.steps import CannotContinueError, say, step
from e2e.harness.kube import kubectl_path

Json: TypeAlias = dict[str, Any]

RELEASE = "llm-rollouts"
CHART = Path(__file__).resolve().parent.parent / "charts" / "llm-rollouts"
FIELD_MANAGER = "llm-rollouts-install"
DEPLOYMENTS = ("llm-rollouts-operator", "llm-rollouts-gateway")
# What a release may hold beside the CRD; cluster-wide kinds last.
KINDS = (
    "deployments.apps", "services", "serviceaccounts", "configmaps",
    "networkpolicies.networking.k8s.io",
    "poddisruptionbudgets.policy", "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io", "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
)  # fmt: skip
# As Helm orders them: what others need comes first.
_ORDER = (
    "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount", "Secret", "ConfigMap",
    "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding",
    "Service", "Deployment",
)  # fmt: skip


def render_chart(values: Mapping[str, Any], namespace: str) -> list[Json]:
    """The chart's objects, in the order in which they are applied.

    Raises helm_python.HelmError when the schema refuses the values or a template fails.
    """
    with helm_python.Chart.load(CHART) as chart:
        # Templates alone would render values that an install refuses.
        chart.validate_schema(chart.merge_values(dict(values)))
        texts = chart.render(dict(values), name=RELEASE, namespace=namespace)
    objects: list[Json] = []
    for path, text in sorted(texts.items()):
        if not path.endswith("NOTES.txt"):
            objects.extend(o for o in yaml.safe_load_all(text) if o)
    rank = {kind: number for number, kind in enumerate(_ORDER)}
    return sorted(objects, key=lambda o: (rank.get(o["kind"], len(rank)), o["metadata"]["name"]))


class Cluster:
    """kubectl against one kubeconfig (None: the one that kubectl finds by itself)."""

    def __init__(self, kubeconfig: str | None) -> None:
        self._base = [kubectl_path(), *(["--kubeconfig", kubeconfig] if kubeconfig else [])]

    def run(self, *words: str, given: str | None = None, timeout: float = 60) -> str:
        try:
            done = subprocess.run(
                [*self._base, *words], input=given, text=True, capture_output=True,
                timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            raise CannotContinueError(
                f"kubectl {' '.join(words)}: no answer within {timeout:.0f} s"
            ) from late
        if done.returncode:
            raise CannotContinueError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout


def install(cluster: Cluster, values: Mapping[str, Any], namespace: str, timeout: float) -> None:
    """Make the cluster hold this release. Raises CannotContinueError."""
    with step("Rendering the chart"):
        objects = render_chart(values, namespace)
    definitions = [o for o in objects if o["kind"] == "CustomResourceDefinition"]
    with step(f"Applying {len(objects)} objects to namespace {namespace}"):
        _apply(cluster, [_make_namespace(namespace), *definitions])
        for definition in definitions:
            cluster.run(
                "wait", "--for=condition=Established", "--timeout=30s",
                f"crd/{definition['metadata']['name']}",
            )  # fmt: skip
        _apply(cluster, [o for o in objects if o not in definitions])
    stale = _list_stale(cluster, objects, namespace)
    if stale:
        with step(f"Removing {', '.join(stale)}, which this release no longer has"):
            cluster.run("delete", "-n", namespace, "--ignore-not-found", *stale)
    for name in DEPLOYMENTS:
        with step(f"Waiting for {name}"):
            _wait_for_rollout(cluster, namespace, name, timeout)


def uninstall(cluster: Cluster, namespace: str, *, with_crd: bool) -> None:
    """Remove the release. LLMDeployments and their workers stay, unless the CRD goes as well."""
    for kind in KINDS:
        with step(f"Removing {kind}"):
            cluster.run(
                "delete", kind, "-n", namespace, "-l", f"app.kubernetes.io/instance={RELEASE}",
                "--ignore-not-found", timeout=120,
            )  # fmt: skip
    with step("Removing the Secrets and the Lease that the operator made"):
        cluster.run(
            "delete", "-n", namespace, "--ignore-not-found", "secret/llm-rollouts-ca",
            "secret/llm-rollouts-xds-tls", "secret/llm-rollouts-gateway-tls", "lease/llm-rollouts",
        )  # fmt: skip
    if with_crd:
        with step("Removing the CRD, and with it every LLMDeployment"):
            cluster.run(
                "delete", "crd", "llmdeployments.llmrollouts.dev", "--ignore-not-found", timeout=120
            )


def _make_namespace(name: str) -> Json:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _apply(cluster: Cluster, objects: Sequence[Json]) -> None:
    if objects:
        cluster.run(
            "apply", "--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}",
            "-f", "-", given=yaml.safe_dump_all(objects), timeout=120,
        )  # fmt: skip


def _list_stale(cluster: Cluster, objects: Sequence[Json], namespace: str) -> list[str]:
    wanted = {(o["kind"], o["metadata"]["name"]) for o in objects}
    listed = json.loads(
        cluster.run(
            "get",
            ",".join(KINDS),
            "-n",
            namespace,
            "-o",
            "json",
            "-l",
            f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/part-of={RELEASE}",
        )
    )
    return [
        f"{o['kind'].lower()}/{o['metadata']['name']}"
        for o in listed["items"]
        if (o["kind"], o["metadata"]["name"]) not in wanted
    ]


def _wait_for_rollout(cluster: Cluster, namespace: str, name: str, timeout: float) -> None:
    try:
        cluster.run(
            "rollout", "status", f"deployment/{name}", "-n", namespace,
            f"--timeout={timeout:.0f}s", timeout=timeout + 10,
        )  # fmt: skip
    except CannotContinueError as late:
        component = name.removeprefix("llm-rollouts-")
        selector = f"app.kubernetes.io/name=llm-rollouts,app.kubernetes.io/component={component}"
        pods = cluster.run("get", "pods", "-n", namespace, "-l", selector, "-o", "wide")
        logs = cluster.run("logs", "-n", namespace, "-l", selector, "--tail=15", "--prefix")
        raise CannotContinueError(f"{late}\n{pods}\n{logs}") from late


def read_values(sources: Sequence[str]) -> Json:
    """Merge values files, later ones over earlier ones; ``-`` is standard input."""
    merged: Json = {}
    for source in sources:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        given = yaml.safe_load(text) or {}
        if not isinstance(given, dict):
            raise CannotContinueError(f"{source} holds no mapping of values")
        merged = _merge(merged, given)
    return merged


def _merge(under: Json, over: Json) -> Json:
    both = {
        key: _merge(under[key], value)
        for key, value in over.items()
        if isinstance(value, dict) and isinstance(under.get(key), dict)
    }
    return {**under, **over, **both}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.install", description=__doc__)
    parser.add_argument("--namespace", default="llm-rollouts-system")
    parser.add_argument("--values", action="append", default=[], help="YAML or JSON; - is stdin")
    parser.add_argument("--kubeconfig", default=None)
    parser.add_argument("--timeout", type=float, default=180, help="seconds for each Deployment")
    parser.add_argument("--render", action="store_true", help="print the objects, touch nothing")
    parser.add_argument("--uninstall", action="store_true")
    parser.add_argument("--crd", action="store_true", help="with --uninstall: the CRD goes too")
    chosen = parser.parse_args()
    begin = time.monotonic()
    try:
        if chosen.render:
            objects = render_chart(read_values(chosen.values), chosen.namespace)
            sys.stdout.write(yaml.safe_dump_all(objects, sort_keys=False))
            return 0
        cluster = Cluster(chosen.kubeconfig)
        if chosen.uninstall:
            uninstall(cluster, chosen.namespace, with_crd=chosen.crd)
        else:
            install(cluster, read_values(chosen.values), chosen.namespace, chosen.timeout)
    except (CannotContinueError, helm_python.HelmError) as error:
        say(f"Cannot go on: {error}")
        return 1
    say(f"Done in {time.monotonic() - begin:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
