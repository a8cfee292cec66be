"""Gives a command to the operator and waits until it was taken in.

The command is one annotation, ``verb[:revision][/nonce]``; the nonce makes each command a value of
its own, so the answer in ``status.command`` is the answer to this very one. A waiting command of
somebody else is not overwritten, except by ``rollback``, which always wins. It decides nothing
about the rollout. Called by the commands that change something.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from llmrollouts.api import labels
from llmrollouts.api.command import Command
from llmrollouts.api.deployment import read_status
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.status import CommandStatus, LLMDeploymentStatus, RollbackStatus
from llmrollouts.cli.cluster import DEPLOYMENTS, Cluster, list_items, object_path
from llmrollouts.cli.failure import Failure, LateAnswer, Raced
from llmrollouts.cli.lease import describe_lease
from llmrollouts.cli.provider import describe_late, read_route

# The operator answers within a fraction of a second; asked often enough that its answer, and not
# this loop, makes the time that a person sees.
_ASK_EVERY: Final = 0.1  # seconds
_WRITE_ATTEMPTS: Final = 8


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, in the hands of tests. monotonic: seconds; sleep: seconds."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a command. ``taken_in`` and ``confirmed``: seconds since it was given; None:
    not waited for, or nothing to confirm. route: the HTTPRoute whose weights are the shares; None:
    the built-in gateways have them."""

    value: str
    command: CommandStatus | None
    taken_in: float | None = None
    confirmed: float | None = None
    rollback: RollbackStatus | None = None
    route: str | None = None

    @property
    def refused(self) -> bool:
        return self.command is not None and self.command.result == "Refused"


def find_target(cluster: Cluster, manifest: Manifest) -> str | None:
    """The stored revision that the spec asks for: the newest with the same source."""
    status = read_status(manifest).status
    if status.override_revision:
        return status.override_revision
    metadata, wanted = manifest["metadata"], (manifest.get("spec") or {}).get("revision")
    records = list_items(
        cluster,
        f"{DEPLOYMENTS}/namespaces/{metadata['namespace']}/controllerrevisions",
        {"labelSelector": f"{labels.DEPLOYMENT}={metadata['name']}"},
    )
    matching = []
    for record in records:
        source = (record.get("data") or {}).get("source")
        revision = (record["metadata"].get("labels") or {}).get(labels.REVISION)
        if isinstance(source, str) and revision and _parse(source) == wanted:
            matching.append((int(record.get("revision") or 0), str(revision)))
    return max(matching)[1] if matching else None


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def give(
    cluster: Cluster, manifest: Manifest, command: Command, clock: Clock, *, wait: float | None
) -> Answer:
    """Annotate the LLMDeployment; with ``wait`` (seconds) also wait for the answer.

    Raises Failure when another command waits, LateAnswer when no answer came in time.
    """
    metadata = manifest["metadata"]
    path = object_path(str(metadata["namespace"]), str(metadata["name"]))
    before = read_status(manifest).status.last_rollback
    marked = replace(command, nonce=secrets.token_hex(4))
    begin = clock.monotonic()
    _write(cluster, path, manifest, marked)
    if wait is None:
        return Answer(str(marked), None)
    answer = _await_answer(cluster, path, str(marked), clock, begin, wait)
    if marked.verb != "rollback" or answer.refused:
        return answer
    answer = replace(answer, route=read_route(manifest))
    return _await_confirmation(
        cluster, str(metadata["namespace"]), path, answer, before, clock, begin, wait
    )


def _write(cluster: Cluster, path: str, manifest: Manifest, command: Command) -> None:
    for _ in range(_WRITE_ATTEMPTS):
        metadata = manifest["metadata"]
        waiting = (metadata.get("annotations") or {}).get(labels.COMMAND)
        change: Manifest = {"annotations": {labels.COMMAND: str(command)}}
        if command.verb != "rollback":
            if waiting:
                raise Failure(
                    f"Another command waits for the operator: {waiting}. Nothing was given.",
                    "Wait until it was taken in, or take it back: "
                    f"kubectl annotate llmd {metadata['name']} -n {metadata['namespace']} "
                    f"{labels.COMMAND}-",
                )
            # A command that arrives between our read and our write must not be lost.
            change["resourceVersion"] = metadata["resourceVersion"]
        try:
            cluster.patch(path, {"metadata": change})
        except Raced:
            manifest = cluster.get(path)
            continue
        return
    raise Failure(
        f"{metadata['namespace']}/{metadata['name']} changes faster than the command can be "
        "written; nothing was given.",
        "Give it again.",
    )


def _await_answer(
    cluster: Cluster, path: str, value: str, clock: Clock, begin: float, wait: float
) -> Answer:
    while True:
        status = _read(cluster, path)
        spent = clock.monotonic() - begin
        if status.command is not None and status.command.value == value:
            return Answer(value, status.command, taken_in=spent, rollback=status.last_rollback)
        if spent > wait:
            raise LateAnswer(
                f"The operator did not take the command in within {wait:.0f} s. It stays on the "
                "object and is executed when the operator returns.",
                describe_lease(cluster, clock.now()),
            )
        clock.sleep(_ASK_EVERY)


def _await_confirmation(
    cluster: Cluster,
    namespace: str,
    path: str,
    answer: Answer,
    before: RollbackStatus | None,
    clock: Clock,
    begin: float,
    wait: float,
) -> Answer:
    """Until the rollback that the command began, if it began one, was confirmed: by every gateway,
    or by the route, read back."""
    began = answer.rollback
    if began is None or (before is not None and before.decided_at == began.decided_at):
        return replace(answer, rollback=None)
    while True:
        current = _read(cluster, path).last_rollback
        spent = clock.monotonic() - begin
        if current is not None and current.programmed_at is not None:
            return replace(answer, confirmed=spent, rollback=current)
        if spent > wait:
            raise LateAnswer(*describe_late(answer.route, namespace, wait))
        clock.sleep(_ASK_EVERY)


def _read(cluster: Cluster, path: str) -> LLMDeploymentStatus:
    return read_status(cluster.get(path)).status
