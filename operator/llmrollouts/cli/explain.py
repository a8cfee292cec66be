"""``kubectl llm explain NAME``: why the gates say what they say, in words, numbers and plots.

Reads status.gates and the stored evidence (ConfigMap ``<name>-evidence``); without the right to
read the ConfigMap it shows what status has. Decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Group, RenderableType
from rich.text import Text

from llmrollouts.analysis.gate import Gate
from llmrollouts.analysis.judgement import Judgement, Outcome
from llmrollouts.api import labels
from llmrollouts.api.deployment import read_status
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.share import Share
from llmrollouts.api.status import GateStatus, LLMDeploymentStatus
from llmrollouts.cli.charts import draw_evidence, draw_latencies
from llmrollouts.cli.cluster import Cluster
from llmrollouts.cli.failure import Failure, Forbidden, Missing
from llmrollouts.cli.plots import plot_evidence
from llmrollouts.cli.replay import draw_findings, report_finding, report_proof, say_evidence
from llmrollouts.cli.session import cluster_options, make_target
from llmrollouts.cli.times import read_time
from llmrollouts.metrics.record import EvidenceRecord

_COLOURS: Final = {
    "Passed": "green",
    "Failed": "red",
    "Frozen": "red",
    "Inconclusive": "yellow",
    "Error": "yellow",
}


@dataclass(frozen=True)
class Explanation:
    """All there is to tell. record: the stored evidence; problem: why there is none."""

    namespace: str
    name: str
    status: LLMDeploymentStatus
    record: EvidenceRecord | None
    problem: str | None

    @property
    def judgement(self) -> Judgement | None:
        """The gate's own words on the stored state."""
        record = self.record
        if record is None or record.stage is None or record.state is None:
            return None
        return Gate(record.stage).judge(record.state)


@click.command(name="explain")
@click.argument("name")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw it too.")
@cluster_options
@click.pass_context
def explain_command(ctx: click.Context, /, name: str, plot: Path | None, **options: Any) -> None:
    """Say why: what was compared, on how many requests, how far apart, how sure."""
    target = make_target(ctx, **options)
    found = gather_explanation(target.cluster, target.find(name))
    if plot is not None:
        if found.record is None or found.record.stage is None or found.record.state is None:
            raise Failure(f"There is nothing to draw: {found.problem or _NO_STAGE}")
        plot_evidence(plot, found.record.stage, found.record.state, found.record.name)
    if target.as_json:
        target.session.print_json(report_explanation(found))
    else:
        target.session.show(draw_explanation(found))


_NO_STAGE: Final = (
    "stable is being measured first; the comparison begins when enough of its requests were seen"
)
_STEP_NAME: Final = re.compile(r"([^/]+)/(\d+)/(\d+)-([A-Za-z]+)-(\d+)")


_NO_PLOT: Final = (
    "Without the tap latencies are known between coarse bounds only: both arms are compared at the "
    "thresholds above, and their distributions are not drawn."
)


def gather_explanation(cluster: Cluster, manifest: Manifest) -> Explanation:
    """Read the evidence of one LLMDeployment. Raises Failure when the cluster does not answer."""
    metadata = manifest["metadata"]
    namespace, name = str(metadata["namespace"]), str(metadata["name"])
    record, problem = None, None
    try:
        stored = cluster.get(
            f"/api/v1/namespaces/{namespace}/configmaps/{labels.evidence_name(name)}"
        )
        record = EvidenceRecord.from_data(stored.get("data") or {})
    except Missing:
        problem = _tell_why_nothing(manifest)
    except Forbidden as forbidden:
        problem = f"the evidence may not be read: {forbidden.message}"
    except ValueError as error:
        problem = f"the stored evidence cannot be read, the operator will write it anew: {error}"
    return Explanation(namespace, name, read_status(manifest).status, record, problem)


def _tell_why_nothing(manifest: Manifest) -> str:
    gates = manifest.get("spec", {}).get("gates", {})
    if gates.get("latency", {}).get("mode") == "Off":
        return "latencies are not compared: spec.gates.latency.mode is Off"
    return "nothing was compared yet: evidence is stored from a rollout's first step on"


def draw_explanation(found: Explanation) -> RenderableType:
    """From the verdicts down to the plots."""
    parts: list[RenderableType] = [
        Text(f"{found.namespace}/{found.name}", style="bold"),
        *(_draw_gate(gate) for gate in found.status.gates),
    ]
    if not found.status.gates:
        parts.append(Text("No gate has spoken in this rollout.", style="dim"))
    if found.problem is not None:
        parts.append(Text(f"! {found.problem}", style="yellow"))
    record = found.record
    if record is None:
        return Group(*parts)
    told = f"\nEvidence of {say_stage(record.name)}, stored {_say_time(record.saved_at)}"
    parts.append(Text(told, style="bold"))
    parts += [Text(f"! {note}", style="yellow") for note in record.notes]
    judgement = found.judgement
    if judgement is None or record.stage is None or record.state is None:
        parts.append(Text(_NO_STAGE.capitalize() + "."))
        return Group(*parts)
    parts += [
        Text(judgement.message),
        Text(tell_change(judgement, record)),
        Text(),
        draw_findings(judgement),
        Text(),
        draw_latencies(record.state) if record.source == "tap" else Text(_NO_PLOT, style="dim"),
        Text(),
        draw_evidence(record.stage, record.state),
    ]
    return Group(*parts)


def say_stage(name: str) -> str:
    """The operator's name of a stage, <revision>/<attempt>/<index>-<kind>-<share>, for people."""
    found = _STEP_NAME.fullmatch(name)
    if found is None:
        return name
    revision, attempt, index, kind, ppm = found.groups()
    return (
        f"{revision}, attempt {attempt}, step {int(index) + 1} ({kind.lower()} {Share(int(ppm))})"
    )


def _say_time(text: str) -> str:
    at = read_time(text)
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if at is not None else text


def _draw_gate(gate: GateStatus) -> Text:
    line = Text(f"  {gate.name}: ")
    line.append(gate.verdict, style=f"bold {_COLOURS[gate.verdict]}")
    line.append(f" ({gate.reason}): {gate.message}")
    if gate.power is not None:
        line.append(f"\n    {gate.power.message}.", style="yellow" if gate.power.blind else "")
    return line


def tell_change(judgement: Judgement, record: EvidenceRecord) -> str:
    """What was compared with what, and what would change the verdict."""
    stage = record.stage
    assert stage is not None  # noqa: S101  # the caller has a judgement of it
    compared = (
        f"Compared: {len(record.canary) or stage.canary_workers} canary and "
        f"{len(record.control) or 'the'} control workers over {judgement.seconds:,} s, second by "
        f"second; the canary may be {100 * (stage.margin - 1):.0f}% slower at any quantile."
    )
    if judgement.outcome is Outcome.ROLL_BACK:
        return f"{compared} This verdict stays for the attempt; retry begins a new one."
    if judgement.outcome is Outcome.FREEZE:
        return (
            f"{compared} It changes when the limit is kept again, or when the canary turns out to "
            "be worse than stable."
        )
    nearest = max(judgement.findings, key=lambda f: f.evidence / f.needed, default=None)
    texts = [compared]
    if nearest is not None:
        texts.append(
            f"A rollback needs evidence of {nearest.needed:,.0f}; {nearest.metric} has the most, "
            f"{say_evidence(nearest.evidence)}."
        )
    missing = [line for line in judgement.proof if not line.accepted and not line.left_out]
    if missing:
        worst = max(missing, key=lambda line: line.more or 0)
        more = f", about {worst.more:,} more canary requests" if worst.more else ""
        texts.append(
            f"A share above 5% needs proof at {len(missing)} more quantiles; the slowest is "
            f"{worst.metric} {worst.quantile}{more}."
        )
    return " ".join(texts)


def report_explanation(found: Explanation) -> Mapping[str, object]:
    """The JSON form."""
    judgement, record = found.judgement, found.record
    return {
        "namespace": found.namespace,
        "name": found.name,
        "gates": [
            gate.model_dump(mode="json", by_alias=True, exclude_none=True)
            for gate in found.status.gates
        ],
        "problem": found.problem,
        "stage": record.name if record is not None else None,
        "storedAt": record.saved_at if record is not None else None,
        "notes": list(record.notes) if record is not None else [],
        "source": record.source if record is not None else None,
        "placebo": {"stages": record.placebo.stages, "firings": record.placebo.firings}
        if record is not None and record.placebo is not None
        else None,
        "judgement": _report_judgement(judgement, record) if judgement and record else None,
    }


def _report_judgement(judgement: Judgement, record: EvidenceRecord) -> Mapping[str, object]:
    return {
        "outcome": judgement.outcome.value,
        "message": judgement.message,
        "whatWouldChangeIt": tell_change(judgement, record),
        "proven": judgement.proven,
        "canaryRequests": judgement.canary_requests,
        "controlRequests": judgement.control_requests,
        "seconds": judgement.seconds,
        "metrics": [report_finding(finding) for finding in judgement.findings],
        "proof": [report_proof(line) for line in judgement.proof],
    }
