"""The demo: real vLLM behind a real Envoy on a real cluster, from apply to 100 % and back.

Two tiny models that the project makes itself, version 1 and version 2. Version 2 goes through
shadow traffic, 0.5 %, 5 %, 50 % and 100 %; then one command takes everyone back to version 1.
"""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from rich.console import Console
from rich.table import Table

from e2e.environment import Environment, prepare
from e2e.harness.kube import Json
from e2e.harness.scenario import Chat, canary, shadow
from e2e.harness.traffic import Tally, Traffic
from llmrollouts.api.share import Share

NAMESPACE = "demo"
RATE = 12.0  # requests per second: what two CPU workers on two shared cores carry with ease
STEPS = [
    shadow("20%", "15s", 10),
    canary("0.5%", "30s", 1),
    canary("5%", "20s", 5),
    canary("50%", "15s", 20),
]
NAMES = ["shadow 20%", "0.5%", "5%", "50%"]
START = 1500.0  # seconds: two vLLM processes that start on two busy cores take their time

UNSEEN = "the operator has not looked at it yet"

console = Console(width=108, highlight=False)
_begin = time.monotonic()
# What was said last, over all waits: two of them often begin with the same message.
_told = [""]


def say(text: str) -> None:
    console.print(f"[dim]{time.monotonic() - _begin:6.0f}s[/dim]  {text}")


def follow(given: Chat, what: str, done: object, timeout: float) -> Json:
    """Wait for a status; tell each new message of the operator on the way."""
    assert callable(done)
    deadline = time.monotonic() + timeout
    while True:
        status = given.status
        message = f"{status.get('phase', 'Pending')}: {status.get('message') or UNSEEN}"
        # Counters in the message change each second: a person wants the news only.
        gist = "".join(c for c in message if not c.isdigit())
        if gist != _told[0]:
            say(f"  {message}")
            _told[0] = gist
        if done(status):
            return status
        if status.get("phase") == "Failed" or time.monotonic() > deadline:
            raise SystemExit(tell_end(given, what, message, time.monotonic() > deadline))
        time.sleep(0.5)


def tell_end(given: Chat, what: str, message: str, late: bool) -> str:
    """Why the demo ends early, and what a person can do about it."""
    lines = [f"The demo stopped while waiting for {what}: {message}"]
    if late:
        busy = f"{os.getloadavg()[0]:.0f} processes want its {os.cpu_count() or 1} cores"
        lines.append(
            f"It waited as long as it ever does; on this machine {busy}. What it began goes on by "
            "itself; its users are gone, so no step passes any more."
        )
    lines += [
        "Look:   export KUBECONFIG=$(make -s kubeconfig) PATH=$PWD/.venv/bin:$PATH",
        f"        kubectl llm status {given.name} -n {NAMESPACE}",
        f"        kubectl get pods,events -n {NAMESPACE}",
        "Again:  make demo    # begins anew; what is built already stays built",
    ]
    return "\n".join(lines)


def prepare_workers(environment: Environment) -> Chat:
    environment.kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    )
    given = Chat(
        environment.kube,
        environment.gateway,
        environment.images["vllm-cpu"],
        NAMESPACE,
        replicas=1,
        steps=STEPS,
        rollback_window="30m",
        # Two vLLM processes on two shared cores disturb each other: compared and shown, and no
        # verdict on this machine's speed decides.
        latency_gate="Observe",
        extra_args=["--enforce-eager"],
        resources={
            "requests": {"cpu": "200m", "memory": "3Gi"},
            "limits": {"memory": "6Gi"},
        },
    )
    given.deleted(timeout=120)  # a demo that was run before
    return given


@dataclass(frozen=True)
class Stretch:
    """One row of the closing table: from when a share was in force until it was to change."""

    name: str
    asked: str
    start: float
    end: float


def describe_step(name: str) -> str:
    """What a step that has begun means for users."""
    kind, _, share = name.rpartition(" ")
    if kind == "shadow":
        return (
            f"[bold]{share}[/bold] of the users' requests are now copied to version 2; its answers "
            "are thrown away, version 1 answers everyone"
        )
    return f"[bold]{share}[/bold] of the users' requests are now answered by version 2"


def roll_out(given: Chat, new: str) -> tuple[list[Stretch], str]:
    """Follow version 2 through its steps: when each share was in force, and the mirrored share
    that the gateways measured in the shadow step."""
    mirrored = "0%"

    def runs(status: Json, index: int) -> bool:
        nonlocal mirrored
        step = status.get("step") or {}
        if step.get("index") == 0:
            mirrored = str(status.get("measuredShadowShare") or mirrored)
        return step.get("index") == index and bool(step.get("runningSince"))

    began: list[float] = []
    decided: list[float] = []
    for index, name in enumerate(NAMES):
        status = follow(
            given,
            f"step {name}",
            partial(runs, index=index),
            START,
        )
        began.append(time.time())
        decided.append(given.decided_at(status))
        say(describe_step(name))
    status = follow(
        given,
        "the promotion",
        lambda s: s.get("stableRevision") == new and not s.get("canaryRevision"),
        START,
    )
    decided.append(given.steps_ended_at(status))
    say("[bold]100%[/bold]: version 2 is the stable revision; version 1 stays warm")
    steps = [
        Stretch(name, name.removeprefix("shadow "), start, end)
        for name, start, end in zip(NAMES, began, decided[1:], strict=True)
    ]
    return [*steps, Stretch("100%", "100%", time.time(), math.inf)], mirrored


def summarise(
    tally: Tally, stretches: list[Stretch], typed: float, decided: float, mirrored: str, new: str
) -> bool:
    """Print the closing table; whether every promise held."""
    table = Table(title="Users' requests by step", title_justify="left")
    for heading in ("step", "requests", "on version 1", "on version 2", "asked", "measured",
                    "failed", "cut"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "step" else "right")
    rows = [
        Stretch("before", "0%", 0.0, stretches[0].start),
        *(replace(each, end=min(each.end, decided)) for each in stretches),
        Stretch("rolled back", "0%", decided, math.inf),
    ]
    shown = 0
    for row in rows:
        part = tally.between(row.start, row.end)
        shown += len(part)
        measured = f"{part.share(new):.1%}"
        if row.name.startswith("shadow"):
            measured = f"{float(mirrored.rstrip('%')):.1f}% mirrored"
        table.add_row(
            row.name, str(len(part)), str(len(part) - len(part.of(new))), str(len(part.of(new))),
            row.asked, measured, str(len(part.failures)), str(len(part.cut)),
        )  # fmt: skip
    table.add_row("on the way between steps", str(len(tally) - shown))
    console.print()
    console.print(table)
    console.print(
        f"Failures: {len(tally.failures)} of {len(tally)} requests; cut streams: {len(tally.cut)}."
    )
    last = tally.between(typed).last_start(new) or decided
    console.print(
        "Rollback: the last request that started on version 2 began "
        f"{max(0.0, last - decided):.2f} s after the operator decided, {last - typed:.2f} s after "
        "the command was typed (the start of the command line tool included, which takes long on "
        "a busy machine)."
    )
    for wrong in tally.failures[:5]:
        console.print(f"  {wrong.detail}")
    return not tally.failures and not tally.cut


def main() -> None:
    say("Preparing the cluster, the images and the operator (most of it only the first time)")
    environment = prepare(["operator", "gateway", "worker", "vllm-cpu"])
    given = prepare_workers(environment)
    say("Applying version 1: one LLMDeployment, one real vLLM worker")
    given.applied("v1")
    follow(given, "version 1", lambda s: s.get("phase") == "Serving", START)
    old = given.stable
    say(f"Version 1 ({old}) serves at {given.url}; users arrive at {RATE:.0f} requests/s")
    with Traffic(given.url, RATE, program="e2e.demo.users") as load:
        load.wait_for(30, timeout=120)
        say("Applying version 2: another model")
        given.applied("v2")
        new = given.canary()
        stretches, mirrored = roll_out(given, new)
        load.wait_for(60, timeout=120)
        compared = (given.status.get("warm") or {}).get("share") or "0%"
        say("Somebody types: kubectl llm rollback chat")
        typed = time.time()
        console.print(given.command("rollback"))
        follow(
            given,
            "the rollback",
            lambda s: s.get("stableRevision") == old and not s.get("canaryRevision"),
            60,
        )
        load.wait_for(60, timeout=120)
        tally = load.stop()
    decided = datetime.fromisoformat(given.status["lastRollback"]["decidedAt"]).timestamp()
    held = summarise(tally, stretches, typed, decided, mirrored, new)
    if Share.parse(compared):
        console.print(
            f"In the row 100% version 1 still answers {compared}: the new stable revision is "
            "compared with it until the rollback window ends."
        )
    console.print(given.kube.llm("status", given.name, "-n", NAMESPACE).stdout, soft_wrap=True)
    kubeconfig = given.kube.kubeconfig
    console.print(
        f"The demo took {(time.monotonic() - _begin) / 60:.1f} minutes. Its users have left, its "
        "workers go on running. Try:\n"
        f"  export KUBECONFIG={kubeconfig} PATH=$PWD/.venv/bin:$PATH\n"
        f"  kubectl llm status chat -n {NAMESPACE}\n"
        f"  curl {given.url}/models\n"
        f"  python -m e2e.demo.users --url {given.url} --rate {RATE:.0f} --out users.jsonl\n"
        "  make cluster-down    # when you have seen enough"
    )
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
