"""``kubectl llm``: the commands, their options and exit codes; kubectl finds it on the PATH.

Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 no answer in time. Results go to standard
output, everything that went wrong to standard error. It decides nothing: orders.py gives commands,
picture.py and screen.py show.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

import click
from rich.console import RenderableType
from rich.live import Live

from llmrollouts import __version__
from llmrollouts.api.command import NEEDS_REVISION, Command, Verb
from llmrollouts.api.deployment import read_status
from llmrollouts.api.manifest import Manifest
from llmrollouts.cli.cluster import list_items, list_path
from llmrollouts.cli.failure import Failure, Missing
from llmrollouts.cli.orders import Answer, find_target, give
from llmrollouts.cli.past import draw_history, read_records
from llmrollouts.cli.picture import Picture, fetch, gather
from llmrollouts.cli.provider import describe_confirmation
from llmrollouts.cli.report import report_answer, report_history, report_picture
from llmrollouts.cli.screen import describe_rollback, draw, draw_list
from llmrollouts.cli.session import (
    F,
    Session,
    Target,
    check_name,
    cluster_options,
    make_target,
)

__all__ = ["Session", "cli", "main", "run"]

_WATCH_EVERY: Final = 1.0  # seconds


class _Commands(click.Group):
    """Loads the commands that compute only when they are called: they need the gate and numpy, and
    a rollback must not wait for either."""

    _LATER: Final = ("explain", "plan", "replay")

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self._LATER])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._LATER:
            return super().get_command(ctx, cmd_name)
        command = getattr(import_module(f"llmrollouts.cli.{cmd_name}"), f"{cmd_name}_command")
        assert isinstance(command, click.Command)  # noqa: S101  # our own modules
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kubectl llm")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Look at rollouts of large language models, and steer them.

    Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 no answer in time.
    """
    ctx.ensure_object(Session)


@cli.command()
@click.argument("name")
@click.option("-w", "--watch", is_flag=True, help="Draw it anew each second until Ctrl-C.")
@cluster_options
@click.pass_context
def status(ctx: click.Context, /, name: str, watch: bool, **options: Any) -> None:
    """Show one rollout: who answers the users, which step, what it waits for."""
    target = make_target(ctx, **options)
    if not watch:
        picture = gather(target.cluster, target.find(name), target.session.clock.now())
        _print_picture(target, picture)
        return
    if target.as_json:
        raise click.UsageError("--watch draws for people; without it, -o json prints one state")
    _watch(target, name)


def _print_picture(target: Target, picture: Picture) -> None:
    if target.as_json:
        target.session.print_json(report_picture(picture))
    else:
        target.session.show(draw(picture))


def _watch(target: Target, name: str) -> None:
    target.find(name)
    clock = target.session.clock
    with Live(console=target.session.out, auto_refresh=False, screen=False) as live:
        while True:
            try:
                shown: RenderableType = draw(
                    fetch(target.cluster, target.namespace, name, clock.now())
                )
            except Missing:
                raise
            except Failure as problem:
                # A blink of the API server does not end a watch at 3 a.m.
                shown = f"{problem.message} Trying again."
            live.update(shown, refresh=True)
            clock.sleep(_WATCH_EVERY)


@cli.command(name="list")
@click.option("-A", "--all-namespaces", is_flag=True, help="Of all namespaces.")
@cluster_options
@click.pass_context
def list_deployments(ctx: click.Context, /, all_namespaces: bool, **options: Any) -> None:
    """One line for each LLMDeployment."""
    target = make_target(ctx, **options)
    scope = None if all_namespaces else target.namespace
    items = list_items(target.cluster, list_path(scope), {})
    now = target.session.clock.now()
    pictures = [gather(None, item, now) for item in items]
    if target.as_json:
        target.session.print_json({"items": [report_picture(p) for p in pictures]})
    elif pictures:
        target.session.show(draw_list(pictures, with_namespace=all_namespaces))
    else:
        where = "this cluster" if scope is None else f"namespace {scope}"
        target.session.err.print(f"There is no LLMDeployment in {where}.")


@cli.command()
@click.argument("name")
@cluster_options
@click.pass_context
def history(ctx: click.Context, /, name: str, **options: Any) -> None:
    """The stored revisions and what happened to them."""
    target = make_target(ctx, **options)
    picture = gather(target.cluster, target.find(name), target.session.clock.now())
    records = read_records(target.cluster, picture)
    if target.as_json:
        target.session.print_json(report_history(picture, records))
    else:
        target.session.show(draw_history(picture, records))


def _order(command: F) -> F:
    for option in (
        click.option("--no-wait", is_flag=True, help="Return as soon as the command is written."),
        click.option(
            "--timeout", type=click.FloatRange(min=0.1), default=30.0, show_default=True,
            help="Seconds to wait for the operator (and, with rollback, until it is confirmed).",
        ),
    ):  # fmt: skip
        command = option(command)
    return cluster_options(command)


@cli.command()
@click.argument("name")
@click.option("--full", is_flag=True, help="Everyone to it, without the remaining steps.")
@click.option("--revision", help="Default: the canary. Refused when it is not the canary.")
@_order
@click.pass_context
def promote(ctx: click.Context, /, full: bool, **options: Any) -> None:
    """End the running step now and go on with the next, in spite of a hold too."""
    _give(ctx, "promote-full" if full else "promote", **options)


@cli.command()
@click.argument("name")
@click.option("--to", "revision", help="A stored revision (see history). Default: stable.")
@_order
@click.pass_context
def rollback(ctx: click.Context, /, **options: Any) -> None:
    """Send everyone back to the stable revision; works in every phase."""
    _give(ctx, "rollback", **options)


@cli.command()
@click.argument("name")
@_order
@click.pass_context
def pause(ctx: click.Context, /, **options: Any) -> None:
    """Stay in the running step, at its share."""
    _give(ctx, "pause", revision=None, **options)


@cli.command()
@click.argument("name")
@_order
@click.pass_context
def resume(ctx: click.Context, /, **options: Any) -> None:
    """Go on after pause, or after a hold."""
    _give(ctx, "resume", revision=None, **options)


@cli.command()
@click.argument("name")
@click.option("--revision", help="Default: the revision that the spec asks for.")
@_order
@click.pass_context
def retry(ctx: click.Context, /, **options: Any) -> None:
    """A new attempt with a rejected revision, from the first step."""
    _give(ctx, "retry", **options)


@cli.command()
@click.argument("name")
@click.option("--revision", help="Default: the canary. Refused when it is not the canary.")
@_order
@click.pass_context
def skip(ctx: click.Context, /, **options: Any) -> None:
    """Leave the running step out."""
    _give(ctx, "skip", **options)


@cli.command()
@click.argument("name")
@_order
@click.pass_context
def refresh(ctx: click.Context, /, **options: Any) -> None:
    """Read the referenced ConfigMaps again, as a new revision."""
    _give(ctx, "refresh", revision=None, **options)


def _give(
    ctx: click.Context, verb: Verb, *, name: str, revision: str | None, no_wait: bool,
    timeout: float, **options: Any,
) -> None:  # fmt: skip
    if revision is not None:
        check_name(revision, "--to" if verb == "rollback" else "--revision")
    target = make_target(ctx, **options)
    manifest = target.find(name)
    command = Command(verb, revision or _fill_in(target, manifest, verb))
    answer = give(
        target.cluster, manifest, command, target.session.clock, wait=None if no_wait else timeout
    )
    if target.as_json:
        target.session.print_json(report_answer(answer))
    else:
        _tell(target.session, answer)
    if answer.refused:
        ctx.exit(1)


def _fill_in(target: Target, manifest: Manifest, verb: Verb) -> str | None:
    """The revision that the person means: what the rollout was about when we looked."""
    if verb not in NEEDS_REVISION:
        return None
    canary = read_status(manifest).status.canary_revision
    if verb != "retry" and canary:
        return canary
    wanted = find_target(target.cluster, manifest) if verb in {"retry", "promote-full"} else None
    if wanted is None:
        where = f"{manifest['metadata']['name']} -n {manifest['metadata']['namespace']}"
        raise Failure(
            f"There is nothing to {verb}: no rollout is running.",
            f"See how it stands: kubectl llm status {where}",
        )
    return wanted


def _tell(session: Session, answer: Answer) -> None:
    command = answer.command
    if command is None:
        session.show(f"Given: {answer.value}. Not waiting; `kubectl llm status` shows its effect.")
        return
    if answer.refused:
        session.err.print(f"{answer.value}: {command.message}", markup=False, soft_wrap=True)
        return
    session.out.print(
        f"Done in {answer.taken_in or 0:.2f} s: {command.message}", markup=False, soft_wrap=True
    )
    if answer.confirmed is not None and answer.rollback is not None:
        session.out.print(
            f"Confirmed by {describe_confirmation(answer.route)} {answer.confirmed:.2f} s after "
            "the command.",
            markup=False, soft_wrap=True,
        )  # fmt: skip
        told = describe_rollback(answer.rollback, answer.route)
        session.out.print(told, markup=False, soft_wrap=True)


def run(arguments: list[str] | None = None, session: Session | None = None) -> int:
    """The program without the process around it: its exit code."""
    chosen = session or Session()
    try:
        code = cli.main(arguments, prog_name="kubectl llm", standalone_mode=False, obj=chosen)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except Failure as failure:
        for line in (failure.message, *failure.advice):
            chosen.err.print(line, markup=False, soft_wrap=True)
        return failure.exit_code
    return int(code or 0)


def main() -> None:
    sys.exit(run())
