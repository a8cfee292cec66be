"""What every command of ``kubectl llm`` has: consoles, a clock, a cluster, a target, options.

It decides nothing. Built by ``main``, or by tests with their own parts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, TypeVar

import click
from rich.console import Console, RenderableType

from llmrollouts.api.manifest import Manifest
from llmrollouts.cli.cluster import Cluster, KubeCluster, list_items, list_path, object_path
from llmrollouts.cli.failure import Failure, Missing
from llmrollouts.cli.orders import Clock

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

F = TypeVar("F", bound=Callable[..., Any])


# Where nobody says how wide the output is (a pipe, a file, a log): wide enough for whole messages.
_PIPE_WIDTH: Final = 160


def _make_console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_WIDTH
    return console


@dataclass
class Session:
    """One call of the program. Tests put their own cluster, clock and consoles here."""

    connect: Callable[[str | None, str | None], Cluster] = KubeCluster
    clock: Clock = field(default_factory=Clock)
    out: Console = field(default_factory=_make_console)
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def print_json(self, value: object) -> None:
        self.out.print_json(json.dumps(value))

    def show(self, what: RenderableType) -> None:
        # Tables never lose a column: where they are wider than the window the terminal wraps.
        self.out.print(what, crop=False)


@dataclass(frozen=True)
class Target:
    """Which object a command is about, and how its result is printed."""

    session: Session
    cluster: Cluster
    namespace: str
    as_json: bool

    def find(self, name: str) -> Manifest:
        """The LLMDeployment; a wrong name is answered with similar ones."""
        check_name(name, "NAME")
        try:
            return self.cluster.get(object_path(self.namespace, name))
        except Missing as missing:
            raise self._suggest(name) from missing

    def _suggest(self, name: str) -> Failure:
        # Raises the clearer failure when the whole kind is missing.
        there = list_items(self.cluster, list_path(self.namespace), {})
        names = sorted(str(i["metadata"]["name"]) for i in there)
        similar = get_close_matches(name, names, n=3, cutoff=0.5)
        if similar:
            advice = f"Did you mean {' or '.join(similar)}?"
        elif names:
            advice = f"There are: {', '.join(names[:10])}"
        else:
            advice = f"There is none in namespace {self.namespace}; all: kubectl llm list -A"
        return Missing(
            f"There is no LLMDeployment {name!r} in namespace {self.namespace!r}.", advice
        )


def check_name(given: str, what: str) -> None:
    """A name becomes a part of an address: what no object can be called is asked of nobody. Empty
    ones come from shell variables that are not set. Raises click's own wrong usage."""
    if not _NAME.fullmatch(given):
        told = (
            "is empty: is a variable of your shell not set?"
            if not given
            else (f"cannot be {given!r}: names have lower-case letters, digits and dashes")
        )
        raise click.UsageError(f"{what} {told}")


def cluster_options(command: F) -> F:
    for option in (
        click.option("--context", help="The kubeconfig's context."),
        click.option("--kubeconfig", help="The kubeconfig file.", metavar="FILE"),
        click.option(
            "-o", "--output", type=click.Choice(["text", "json"]), default="text",
            show_default=True, help="For people or for programs.",
        ),
        click.option("-n", "--namespace", help="Default: that of the kubeconfig's context."),
    ):  # fmt: skip
        command = option(command)
    return command


def make_target(
    ctx: click.Context, namespace: str | None, output: str, kubeconfig: str | None,
    context: str | None,
) -> Target:  # fmt: skip
    if namespace is not None:
        check_name(namespace, "--namespace")
    session: Session = ctx.obj
    cluster = session.connect(kubeconfig, context)
    return Target(session, cluster, namespace or cluster.namespace, output == "json")
