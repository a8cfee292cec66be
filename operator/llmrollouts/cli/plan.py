"""``kubectl llm plan``: what each step of a rollout can find, how fast, with how many requests.

Decides nothing and asks no cluster; analysis/sizing and rounded_sizing compute, plan_screen draws.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from llmrollouts.analysis.rounded_sizing import Latency, RoundedStep, find_rounded_power
from llmrollouts.analysis.sizing import SIGMA, find_power, make_setting, suppose_stage
from llmrollouts.api.duration import parse_duration
from llmrollouts.api.share import WHOLE, Share
from llmrollouts.cli.failure import BadInput
from llmrollouts.cli.plan_screen import StepPower, draw_plan, report_plan
from llmrollouts.cli.policy_file import PlannedStep, PolicyFile, read_policy
from llmrollouts.cli.session import Session
from llmrollouts.cli.untapped import NOTES
from llmrollouts.rollout.capacity import canary_workers, workers_for
from llmrollouts.rollout.gates import UNPROVEN_SHARE

# The control group yields this many times the canary's requests, where stable has them.
_CONTROL: Final = 4
_FEW_WORKERS: Final = 5
# Of a median, seconds.
_SHORTEST: Final = 0.0001
_LONGEST: Final = 600.0


def _read_seconds(
    ctx: click.Context,  # noqa: ARG001 - click calls it with both
    param: click.Parameter,
    text: str | None,
) -> float | None:
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param=param) from error
    if not _SHORTEST <= seconds <= _LONGEST:
        raise click.BadParameter("a median lies between 0.1ms and 10m", param=param)
    return seconds


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
    "--ttft", callback=_read_seconds, metavar="DURATION",
    help="Stable's median time to the first token, such as 200ms; without the tap only.",
)  # fmt: skip
@click.option(
    "--tpot", callback=_read_seconds, metavar="DURATION",
    help="Stable's median time per output token, such as 12.5ms; without the tap only.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="For people or for programs.",
)  # fmt: skip
@click.pass_context
def plan_command(
    ctx: click.Context,
    /,
    path: Path,
    rate: float,
    replicas: int | None,
    sigma: float,
    ttft: float | None,
    tpot: float | None,
    output: str,
) -> None:
    """Say what each step can find, how fast, and with how many requests."""
    session: Session = ctx.obj
    # NaN lies in every range, as no comparison refuses it.
    if not (math.isfinite(rate) and math.isfinite(sigma)):
        raise click.UsageError("--rate and --sigma are numbers")
    given = read_policy(path)
    steps = plan_power(given, rate, replicas, sigma, _find_latencies(given, ttft, tpot, sigma))
    notes = NOTES if given.untapped is not None else ()
    if output == "json":
        session.print_json(report_plan(steps, rate, sigma, notes))
    else:
        session.show(draw_plan(steps, rate, sigma, notes))


def _find_latencies(
    given: PolicyFile, ttft: float | None, tpot: float | None, sigma: float
) -> tuple[Latency, ...]:
    """Stable's latencies, which matter without the tap alone; empty with it."""
    if given.untapped is None:
        if ttft is not None or tpot is not None:
            raise click.UsageError(
                "--ttft and --tpot are for engines without the tap (spec.revision.engine.tap: "
                "false in FILE): with it only ratios count"
            )
        return ()
    if ttft is None or tpot is None:
        raise BadInput(
            "How fast is stable? Its engines have no tap (spec.revision.engine.tap: false), so a "
            "regression is found only when it carries requests over the next bound of the "
            "engine's histograms.",
            "Add stable's medians, for example --ttft 200ms --tpot 20ms.",
        )
    return given.untapped.latencies(ttft, tpot, sigma)


def plan_power(
    given: PolicyFile,
    rate: float,
    replicas: int | None,
    sigma: float,
    latencies: tuple[Latency, ...] = (),
) -> list[StepPower]:
    """Each step's power. ``latencies``: of stable, for engines without the tap. Raises BadInput
    when nobody says how many workers there are."""
    count = replicas or given.replicas
    if count is None and given.strategy.match_load:
        raise BadInput(
            "How many workers are there? The load of one decides what matchLoad mirrors.",
            f"Add --replicas, for example --replicas {_FEW_WORKERS}.",
        )
    found = [_find_step(given, step, rate, count or 1, sigma, latencies) for step in given.steps]
    if not latencies:
        return found
    following = [*given.steps[1:], None]
    return [
        replace(each, tapped=False, waits=_why_it_waits(after))
        for each, after in zip(found, following, strict=True)
    ]


def _why_it_waits(following: PlannedStep | None) -> str | None:
    """Without the tap."""
    if following is not None:
        small = following.share * WHOLE <= UNPROVEN_SHARE.ppm
        if following.kind == "Shadow" or small:
            return None
    after = f"the {following.share_text} after it" if following is not None else "the promotion"
    return (
        f"nothing is proven without the tap, so {after} never follows by itself: this step waits "
        "until its deadline, and then for onInconclusive, or for `kubectl llm promote`"
    )


def _find_step(
    given: PolicyFile,
    step: PlannedStep,
    rate: float,
    replicas: int,
    sigma: float,
    latencies: tuple[Latency, ...],
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
    if latencies:
        seen = RoundedStep(given.policy, step.level, step.seconds, workers, canary, control)
        powers = find_rounded_power(seen, latencies)
    else:
        powers = find_power(make_setting(stage, canary, control, sigma))
    return StepPower(step, canary, control, workers, stage.margin, powers)
