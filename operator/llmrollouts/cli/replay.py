"""``kubectl llm replay``: the canary gate over recorded requests.

Reads and prints; analysis/replay decides. Exit code 0 for every verdict, 2 for input that cannot
be used.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.text import Text

from llmrollouts.analysis.finding import Finding
from llmrollouts.analysis.judgement import Judgement, ProofLine
from llmrollouts.analysis.replay import Replay, TraceError, Verdict, replay
from llmrollouts.cli.charts import draw_evidence
from llmrollouts.cli.columns import draw_columns
from llmrollouts.cli.failure import BadInput
from llmrollouts.cli.plots import plot_evidence
from llmrollouts.cli.policy_file import PlannedStep, PolicyFile, read_policy
from llmrollouts.cli.session import Session
from llmrollouts.cli.trace_file import Recording, read_recording

_SAID = {
    Verdict.ROLLED_BACK: "red",
    Verdict.PROMOTABLE: "green",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.FROZEN: "yellow",
}


@click.command(name="replay")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "--policy", required=True, type=click.Path(path_type=Path), metavar="FILE",
    help="objectives and strategy with one canary step, or an LLMDeployment with one.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="For people or for programs.",
)  # fmt: skip
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw it too.")
@click.pass_context
def replay_command(
    ctx: click.Context, /, trace: Path, policy: Path, output: str, plot: Path | None
) -> None:
    """Judge recorded requests as the operator would have.

    TRACE holds one JSON record a line: t, revision (stable or canary), replica, ttft, tpot, e2e,
    tokens, status; null for what never came. Every verdict ends with exit code 0; input that
    cannot be used with 2.
    """
    session: Session = ctx.obj
    given = read_policy(policy)
    step = choose_step(given)
    recording = read_recording(trace)
    result = run_replay(recording, given, step)
    if plot is not None:
        plot_evidence(plot, result.stage, result.state, str(trace.name))
    if output == "json":
        session.print_json(report_replay(result))
    else:
        session.show(draw_replay(result))


def choose_step(given: PolicyFile) -> PlannedStep:
    """The one canary step. Raises BadInput."""
    steps = [step for step in given.steps if step.kind == "Canary"]
    if len(steps) != 1:
        raise BadInput(
            f"replay judges one canary step, and this policy has {len(steps)}: "
            "leave the one in strategy.steps whose trace this is"
        )
    return steps[0]


def run_replay(recording: Recording, given: PolicyFile, step: PlannedStep) -> Replay:
    """The gate over the recording. Raises BadInput."""
    try:
        with _without_cycles():
            return replay(
                recording.trace,
                given.policy,
                level=step.level,
                ticks=step.seconds,
                canary_workers=max(1, recording.canary_replicas),
                min_requests=step.min_requests,
            )
    except TraceError as problem:
        raise BadInput(f"This trace cannot be judged: {problem}") from problem


@contextmanager
def _without_cycles() -> Iterator[None]:
    """No search for cycles of garbage meanwhile: a second of trace makes many small objects and
    no cycle, and looking for some takes a tenth of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def report_replay(result: Replay) -> Mapping[str, object]:
    """The JSON form."""
    judgement = result.judgement
    finding = judgement.finding
    return {
        "verdict": result.verdict.value,
        "decidedAt": result.decided_at,
        "metric": finding.metric if finding is not None else None,
        "samples": {
            "canary": judgement.canary_requests,
            "control": judgement.control_requests,
            "seconds": judgement.seconds,
            "comparedFrom": result.compared_from,
            "baseline": result.baseline,
            "canaryBeforeBaseline": result.skipped,
        },
        "evidence": {
            "message": judgement.message,
            "firstSeenAt": judgement.first_seen,
            "margin": round(result.stage.margin, 6),
            "level": result.stage.level,
            "metrics": [report_finding(f) for f in judgement.findings],
            "proof": [report_proof(line) for line in judgement.proof],
        },
    }


def report_finding(finding: Finding) -> Mapping[str, object]:
    """One metric. Latencies in seconds, ratios canary by stable."""
    return {
        "metric": finding.metric,
        "evidence": _significant(finding.evidence),
        "needed": _significant(finding.needed),
        "canary": {"over": finding.over_canary, "of": finding.total_canary},
        "control": {"over": finding.over_control, "of": finding.total_control},
        "canaryBound": finding.canary_bound,
        "controlBound": finding.control_bound,
        "ratios": {k: round(v, 4) for k, v in finding.ratios.items()} if finding.ratios else None,
        "ks": round(finding.ks, 6),
        "ksLower": round(finding.ks_lower, 6),
        "pValue": _significant(finding.p_value),
        "message": finding.message,
    }


def report_proof(line: ProofLine) -> Mapping[str, object]:
    """One test of the promotion proof."""
    return {
        "metric": line.metric,
        "quantile": line.quantile,
        "evidence": _significant(line.evidence),
        "needed": _significant(line.needed),
        "accepted": line.accepted,
        "requests": line.requests,
        "notUsed": line.left_out,
    }


def _significant(value: float) -> float:
    """Four digits: evidence spans hundreds of powers of ten."""
    return float(f"{value:.4g}") if math.isfinite(value) else 0.0


def draw_replay(result: Replay) -> RenderableType:
    """The verdict, its numbers and the evidence over time."""
    line = Text(result.verdict.value, style=f"bold {_SAID[result.verdict]}")
    if result.decided_at is not None:
        line.append(
            f" at {result.decided_at:,.0f} s, {result.decided_at - result.compared_from:,.0f} s "
            "after the first compared request",
            style="not bold",
        )
    judgement = result.judgement
    told = (
        f"{judgement.message}\nThresholds from {result.baseline:,} requests of stable; "
        f"{result.skipped:,} canary requests of that time were not compared."
    )
    return Group(
        line,
        Text(told),
        Text(),
        draw_findings(judgement),
        Text(),
        draw_evidence(result.stage, result.state),
    )


def say_evidence(value: float) -> str:
    """Two digits, as people write numbers: 0.42, 930, 14,000; powers of ten from a million on."""
    if not 10 <= value < 1e6:
        return f"{value:.2g}"
    return f"{float(f'{value:.2g}'):,.0f}"


def draw_findings(judgement: Judgement) -> RenderableType:
    """One line for each metric, and what is proven."""
    rows: list[list[str | Text]] = [
        [f.metric, say_evidence(f.evidence), say_evidence(f.needed), f.message]
        for f in judgement.findings
    ]
    parts: list[RenderableType] = [
        draw_columns(rows, ["METRIC", "EVIDENCE", "NEEDED", "FOUND"], fold=True)
    ]
    lines = [line for line in judgement.proof if not line.left_out]
    if lines:
        shown = ", ".join(
            f"{line.metric} {line.quantile} {'yes' if line.accepted else 'not yet'}"
            for line in lines
        )
        parts.append(Text(f"Shown to be no worse than promotionMargin allows: {shown}"))
    return Group(*parts)
