"""The JSON forms of what the commands show and do: stable names for scripts; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from llmrollouts.api.deployment import summarize_verdicts
from llmrollouts.api.manifest import Manifest
from llmrollouts.cli.advice import next_commands
from llmrollouts.cli.orders import Answer
from llmrollouts.cli.picture import Picture


def _time(at: datetime | None) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at is not None else None


def report_picture(picture: Picture) -> Mapping[str, object]:
    """One LLMDeployment. Shares are texts with a percent sign, as in the API."""
    status = picture.status
    dumped: Manifest = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {
        "namespace": picture.namespace,
        "name": picture.name,
        "phase": picture.phase,
        "message": picture.problem or status.message,
        "verdict": summarize_verdicts(status),
        "revisions": [
            {
                "role": arm.role,
                "revision": arm.revision,
                "model": arm.model,
                "readyWorkers": arm.ready,
                "wantedWorkers": arm.wanted,
                "share": arm.asked,
                "measuredShare": arm.measured,
                "shadowShare": arm.mirror_asked,
                "measuredShadowShare": arm.mirror_measured,
            }
            for arm in picture.arms
        ],
        "steps": [
            {"kind": mark.kind, "share": mark.share, "state": mark.state} for mark in picture.steps
        ],
        "pendingCommand": picture.pending,
        "specSeen": not picture.behind,
        "operatorSilence": picture.silence,
        "events": [
            {
                "at": _time(told.at),
                "type": told.kind,
                "reason": told.reason,
                "message": told.message,
                "count": told.count,
            }
            for told in picture.events
        ],
        "next": [
            {"command": command, "effect": effect} for command, effect in next_commands(picture)
        ],
        "notReadable": list(picture.unread),
        "status": dumped,
    }


def report_answer(answer: Answer) -> Mapping[str, object]:
    """What became of a command. Times are seconds since it was given, as measured here."""
    command, rollback = answer.command, answer.rollback
    return {
        "command": answer.value,
        "result": command.result if command is not None else "Given",
        "message": command.message if command is not None else None,
        "reason": command.reason if command is not None else None,
        "takenInSeconds": _seconds(answer.taken_in),
        "confirmedSeconds": _seconds(answer.confirmed),
        "rollback": rollback.model_dump(mode="json", by_alias=True, exclude_none=True)
        if rollback is not None
        else None,
    }


def _seconds(value: float | None) -> float | None:
    return round(value, 3) if value is not None else None


def report_history(
    picture: Picture, records: Sequence[Mapping[str, object]]
) -> Mapping[str, object]:
    """The stored revisions, newest first, and what happened, oldest first."""
    return {
        "namespace": picture.namespace,
        "name": picture.name,
        "revisions": list(records),
        "history": [
            entry.model_dump(mode="json", by_alias=True) for entry in picture.status.history
        ],
    }
