"""``kubectl llm plan``: what each step of a rollout can find, how fast, with how many requests.

Decides nothing and asks no cluster; analysis/sizing computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Group, RenderableType
from rich.text import Text

from llmrollouts.analysis.reach import Power, describe_reach, format_rate, is_blind
from llmrollouts.analysis.sizing import SIGMA, find_power, make_setting, suppose_stage
from llmrollouts.api.duration import format_duration
from llmrollouts.api.share import WHOLE, Share
from llmrollouts.cli.columns import draw_columns
from llmrollouts.cli.failure import BadInput
from llmrollouts.cli.policy_file import PlannedStep, PolicyFile, read_policy
from llmrollouts.cli.session import Session
from llmrollouts.rollout.capacity import canary_workers, workers_for

# The control group yields this many times the canary's requests, where stable has them.
_CONTROL: Final = 4
_FEW_WORKERS: Final = 5


@dataclass(frozen=True)
class StepPower:
    """One step. canary, control: compared requests a second; workers: of the canary."""

    step: PlannedStep
    canary: float
    control: float
    workers: int
    margin: float
    powers: tuple[Power, ...]

    @property
    def summary(self) -> str:
        return describe_reach(self.powers, self.canary).message

    @property
    def warning(self) -> str | None:
        if not is_blind(self.powers):
            return None
        return (
            f"this step cannot find any slower revision: {format_rate(self.canary)} compared "
            f"requests a second are too few within {format_duration(self.step.seconds)}; make it "
            "longer, raise its share, or keep matchLoad on"
        )


@click.command(name="plan")
@click.option(
    "-f", "--file", "path", required=True, type=click.Path(path_type=Path), metavar="FILE",
    help="An LLMDeployment, or its objectives and strategy.",
)  # fmt: skip
@click.option(
    "--rate", required=True, type=click.FloatRange(min=0, min_open=True, max=1e6),
    help="Requests a second of all users together.",
)  # fmt: skip
@click.option(
    "--replicas", type=click.IntRange(1, 1000), help="Stable workers, where FILE names none."
)
@click.option(
    "--sigma", type=click.FloatRange(0.05, 3), default=SIGMA, show_default=True,
    help="Spread of latencies: standard deviation of their logarithm; 0.6 to 1.2 with short and "
    "long prompts together.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="For people or for programs.",
)  # fmt: skip
@click.pass_context
def plan_command(
    ctx: click.Context, /, path: Path, rate: float, replicas: int | None, sigma: float, output: str
) -> None:
    """Say what each step can find, how fast, and with how many requests."""
    session: Session = ctx.obj
    # NaN lies in every range, as no comparison refuses it.
    if not (math.isfinite(rate) and math.isfinite(sigma)):
        raise click.UsageError("--rate and --sigma are numbers")
    steps = plan_power(read_policy(path), rate, replicas, sigma)
    if output == "json":
        session.print_json(report_plan(steps, rate, sigma))
    else:
        session.show(draw_plan(steps, rate, sigma))


def plan_power(
    given: PolicyFile, rate: float, replicas: int | None, sigma: float
) -> list[StepPower]:
    """Each step's power. Raises BadInput when nobody says how many workers there are."""
    count = replicas or given.replicas
    if count is None and given.strategy.match_load:
        raise BadInput(
            "How many workers are there? The load of one decides what matchLoad mirrors.",
            f"Add --replicas, for example --replicas {_FEW_WORKERS}.",
        )
    return [_find_step(given, step, rate, count or 1, sigma) for step in given.steps]


def _find_step(
    given: PolicyFile, step: PlannedStep, rate: float, replicas: int, sigma: float
) -> StepPower:
    share = Share(round(step.share * WHOLE))
    users = step.share * rate
    if step.kind == "Canary":
        workers = canary_workers(share, replicas, given.strategy)
        stable = rate - users
        # Filled up with mirrored requests to the load of stable workers.
        matched = workers * stable / replicas if given.strategy.match_load else 0.0
        canary = min(rate, max(users, matched))
    else:
        workers, stable, canary = workers_for(share, replicas), rate, users
    control = min(stable, _CONTROL * canary)
    stage = suppose_stage(given.policy, step.level, step.seconds, workers)
    powers = find_power(make_setting(stage, canary, control, sigma))
    return StepPower(step, canary, control, workers, stage.margin, powers)


def report_plan(steps: list[StepPower], rate: float, sigma: float) -> Mapping[str, object]:
    """The JSON form. Seconds count from the first request that the regression touches; null: not
    within the step."""
    return {
        "rate": rate,
        "model": {"latency": "lognormal", "sigma": sigma, "stableErrorRate": 0.001},
        "steps": [
            {
                "kind": found.step.kind,
                "share": found.step.share_text,
                "seconds": found.step.seconds,
                "canaryWorkers": found.workers,
                "canaryRequestsPerSecond": round(found.canary, 4),
                "controlRequestsPerSecond": round(found.control, 4),
                "margin": round(found.margin - 1, 4),
                "level": found.step.level,
                "finds": [
                    {
                        "regression": power.effect.name,
                        "medianSeconds": power.median,
                        "p95Seconds": power.p95,
                        "p95Requests": power.requests(found.canary),
                    }
                    for power in found.powers
                ],
                "summary": found.summary,
                "warning": found.warning,
            }
            for found in steps
        ],
    }


def draw_plan(steps: list[StepPower], rate: float, sigma: float) -> RenderableType:
    """A block for each step."""
    parts: list[RenderableType] = [
        Text(
            f"{rate:g} requests/s, latencies lognormal with sigma {sigma:g}. Median / p95 from the "
            "first request touched; add the age at which a request counts and about 5 s to the "
            "last canary request."
        )
    ]
    for number, found in enumerate(steps, start=1):
        step = found.step
        head = Text(f"\nStep {number}: {step.kind.lower()} {step.share_text}", style="bold")
        head.append(
            f" for {format_duration(step.seconds)}, {found.canary:,.3g} compared canary requests/s "
            f"on {found.workers} worker{'s' if found.workers > 1 else ''}, margin "
            f"{100 * (found.margin - 1):.0f}%",
            style="not bold",
        )
        rows: list[list[str | Text]] = [
            [
                f"  {power.effect.name}",
                _delay(power),
                "-" if power.p95 is None else f"{power.requests(found.canary):,}",
            ]
            for power in found.powers
        ]
        parts += [head, draw_columns(rows, ["  REGRESSION", "FOUND AFTER", "REQUESTS"])]
        if found.warning is not None:
            parts.append(Text(f"  ! {found.warning}", style="yellow"))
    return Group(*parts)


def _delay(power: Power) -> str:
    if power.median is None:
        return "not in this step"
    median = _span(power.median)
    return f"{median} / {_span(power.p95)}" if power.p95 is not None else f"{median} / not surely"


def _span(seconds: float | None) -> str:
    value = math.ceil(seconds or 0)
    return f"{value} s" if value < 600 else format_duration(float(60 * math.ceil(value / 60)))
