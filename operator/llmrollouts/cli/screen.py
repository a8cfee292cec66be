"""Draws a picture of a rollout that one reads in five seconds; decides nothing.

From top to bottom: how it stands, who answers the users, where in the steps it is, what it waits
for, what is wrong, what happened last, what to type next. Shapes carry the meaning, colours only
repeat it, so that a pipe or a log shows the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from llmrollouts.api.deployment import summarize_verdicts
from llmrollouts.api.duration import format_duration, parse_duration
from llmrollouts.api.share import WHOLE, Share
from llmrollouts.api.status import RollbackStatus
from llmrollouts.cli.advice import next_commands
from llmrollouts.cli.columns import draw_columns
from llmrollouts.cli.evidence import draw_gates
from llmrollouts.cli.picture import Arm, Picture, StepMark
from llmrollouts.cli.provider import describe_confirmation

_COLOURS: Final = {
    "Serving": "green",
    "Progressing": "cyan",
    "Promoting": "cyan",
    "Starting": "cyan",
    "Pending": "cyan",
    "Paused": "yellow",
    "Held": "yellow",
    "RollingBack": "red",
    "Degraded": "red",
    "Failed": "red",
    "Unreadable": "red",
}
_MARKS: Final = {"done": "✔", "now": "▶", "next": "○"}


def draw(picture: Picture) -> Group:
    """The whole screen."""
    parts: list[RenderableType] = [_headline(picture)]
    message = picture.problem or picture.status.message
    if message:
        parts.append(Padding(Text(message), (0, 0, 0, 2)))
    parts.append(Text())
    if picture.arms:
        parts.extend([_arm_table(picture), Text()])
    if picture.status.canary_revision:
        parts.extend([*_steps(picture), Text()])
    running = picture.status.canary_revision is not None
    gates = draw_gates(picture.status.gates, running=running)
    for block in (gates, _waits(picture), _warnings(picture), _past(picture)):
        if block is not None:
            parts.extend([block, Text()])
    parts.append(_advice(picture))
    return Group(*parts)


def _headline(picture: Picture) -> Text:
    line = Text()
    line.append(f"{picture.namespace}/{picture.name}", style="bold")
    line.append("  ")
    line.append(picture.phase, style=f"bold {_COLOURS.get(picture.phase, 'white')}")
    if picture.status.canary_revision and picture.status.promotion:
        line.append(f" · promotion: {picture.status.promotion.stage.lower()}")
    elif picture.status.canary_revision and picture.status.step:
        steps = len(picture.steps) - 1
        line.append(f" · step {picture.status.step.index + 1} of {steps}")
    return line


def _arm_table(picture: Picture) -> RenderableType:
    rows: list[list[str | Text]] = []
    mirrored = any(_mirrored(arm) for arm in picture.arms)
    for arm in picture.arms:
        role = Text(f"  {arm.role}", style="bold" if arm.role in {"stable", "canary"} else "dim")
        copies = [_mirrored(arm)] if mirrored else []
        rows.append(
            [role, arm.revision, _workers(arm), _users(arm, picture), *copies, _model(arm.model)]
        )
    headings = ["", "REVISION", "WORKERS", "USERS", *(["MIRRORED"] if mirrored else []), "MODEL"]
    return draw_columns(rows, headings)


def _model(address: str | None) -> str:
    """Long commits and digests by their first eight digits, as people know them."""
    return re.sub(r"([0-9a-f]{8})[0-9a-f]{32,}", r"\1…", address or "")


def _workers(arm: Arm) -> Text:
    if arm.wanted is None:
        return Text("none" if arm.ready is None else "?", style="dim")
    full = arm.ready == arm.wanted
    return Text(f"{arm.ready}/{arm.wanted} ready", style="" if full else "yellow")


def _users(arm: Arm, picture: Picture) -> str:
    if arm.role == "canary":
        return _asked_and_measured(arm.asked, arm.measured)
    if arm.role != "stable":
        return arm.asked or "0%"
    # Whatever no share takes.
    shares = [Share.parse(other.asked).ppm for other in picture.arms if other.asked]
    return str(Share(max(0, WHOLE - sum(shares))))


def _asked_and_measured(asked: str | None, measured: str | None) -> str:
    return f"{asked or '0%'} (measured {measured})" if measured else f"{asked or '0%'}"


def _mirrored(arm: Arm) -> str:
    if not arm.mirror_asked or not Share.parse(arm.mirror_asked):
        return ""
    return _asked_and_measured(arm.mirror_asked, arm.mirror_measured)


def _label(mark: StepMark) -> str:
    return {"Shadow": f"shadow {mark.share}", "Canary": mark.share, "All": "everyone"}[mark.kind]


def _steps(picture: Picture) -> list[RenderableType]:
    line = Text("  ")
    for number, mark in enumerate(picture.steps):
        if number:
            line.append(" ── ", style="dim")
        style = {"done": "green", "now": "bold cyan", "next": "dim"}[mark.state]
        line.append(f"{_MARKS[mark.state]} {_label(mark)}", style=style)
    shown: list[RenderableType] = [line]
    detail = _step_detail(picture)
    if detail:
        shown.append(Text(f"    {detail}"))
    return shown


def _step_detail(picture: Picture) -> str | None:
    step = picture.status.step
    if step is None or picture.status.promotion or not 0 <= step.index < len(picture.steps) - 1:
        return None
    mark = picture.steps[step.index]
    held = step.held_seconds
    if step.running_since is not None:
        held += max(0.0, (picture.now - step.running_since).total_seconds())
    try:
        wanted = parse_duration(mark.duration)
    except ValueError:
        return None
    clock = "" if step.running_since is not None else " (clock stopped)"
    done = min(1.0, held / wanted) if wanted else 1.0
    bar = "█" * int(done * 20) + "░" * (20 - int(done * 20))
    counted = f"{step.counter.total} requests"
    if mark.min_requests:
        counted = f"{step.counter.total} of at least {mark.min_requests} requests"
    if picture.route is not None:
        counted = "requests are not counted"
    return f"{bar} {_span(min(held, wanted))} of {mark.duration}{clock}, {counted}"


def _span(seconds: float) -> str:
    return format_duration(float(int(seconds)))


def _waits(picture: Picture) -> Text | None:
    """Why it does not go on by itself."""
    status = picture.status
    lines: list[str] = []
    if picture.silence:
        lines += [picture.silence, _describe_stale(picture)]
    if status.paused:
        lines.append("Paused by a person: the share stays, the step's clock stands still.")
    if status.hold:
        lines.append(f"Needs a person: {status.hold}")
    if status.lapse is not None and status.lapse.active:
        since = _ago(status.lapse.since, picture.now)
        lines.append(
            f"Lapsed {since} ({status.lapse.cause}): the share is 0, nothing is rejected; it "
            "returns after 60 s of health."
        )
    if picture.pending:
        lines.append(f"The command {picture.pending} waits for the operator.")
    if picture.behind:
        lines.append("The operator has not looked at the latest spec yet.")
    progressing = next((c for c in status.conditions if c.type == "Progressing"), None)
    told = progressing.message if progressing is not None else ""
    if not lines and status.canary_revision and told and told != status.message:
        lines.append(f"Waits for: {told}")
    return Text("\n".join(f"  {line}" for line in lines), style="yellow") if lines else None


def _describe_stale(picture: Picture) -> str:
    """What it means for users that nobody decides."""
    if picture.route is not None:
        return (
            f"Until one is back everything here is as the last one left it; HTTPRoute "
            f"{picture.route} keeps its weights."
        )
    return (
        "Until one is back everything here is as the last one left it; the gateways have taken "
        "its shares to 0 by themselves, the stable revision answers."
    )


def _warnings(picture: Picture) -> Text | None:
    lines = [f"  ! {kind}: {message}" for kind, message in picture.condition_messages()]
    if picture.unread:
        lines.append(f"  ! not shown, you may not read them: {', '.join(picture.unread)}")
    return Text("\n".join(lines), style="yellow") if lines else None


def describe_rollback(rollback: RollbackStatus, route: str | None) -> str:
    """When, why and how long each part took. route: see Picture."""
    decided = f"{rollback.decided_at:%Y-%m-%d %H:%M:%S} UTC"
    why = f"{rollback.reason}: {rollback.message}"
    parts = [f"{rollback.revision} -> {rollback.to} at {decided}: {why}"]
    begin = rollback.requested_at or rollback.first_seen_at or rollback.decided_at
    known = rollback.requested_at or rollback.first_seen_at
    if known is rollback.first_seen_at and known is not None:
        parts.append(f"fault first seen in the data at {known:%H:%M:%S} UTC")
    times = [
        ("detected", rollback.detected_at),
        ("decided", rollback.decided_at if known else None),
        (f"confirmed by {describe_confirmation(route)}", rollback.programmed_at),
        ("last canary request began", rollback.last_canary_request_at),
    ]
    measured = [
        f"{what} after {max(0.0, (at - begin).total_seconds()):.2f} s" for what, at in times if at
    ]
    if measured:
        parts.append("; ".join(measured))
    if losses := _describe_losses(rollback):
        parts.append(losses)
    return "\n".join(parts)


def _describe_losses(rollback: RollbackStatus) -> str:
    """What users paid, as far as the gateways counted it."""
    parts = []
    if rollback.lost_requests is not None:
        parts.append(f"users lost {rollback.lost_requests}")
    if rollback.saved_requests:
        parts.append(f"stable answered {rollback.saved_requests} that had failed")
    if rollback.cut_streams:
        parts.append(f"{rollback.cut_streams} were cut off after their first token")
    return f"requests of this attempt: {'; '.join(parts)}" if parts else ""


def _past(picture: Picture) -> Group | None:
    rows: list[RenderableType] = []
    rollback = picture.status.last_rollback
    if rollback is not None:
        first, *more = describe_rollback(rollback, picture.route).splitlines()
        rows.append(Text(f"  Last rollback: {first}"))
        rows.extend(Text(f"    {line}") for line in more)
    if picture.events:
        told_rows: list[list[str | Text]] = []
        for told in picture.events:
            again = f" (x{told.count})" if told.count > 1 else ""
            told_rows.append(
                [
                    Text(f"  {_ago(told.at, picture.now):>8}", style="dim"),
                    Text(told.reason, style="red" if told.kind == "Warning" else ""),
                    f"{told.message}{again}",
                ]
            )
        rows.append(draw_columns(told_rows))
    return Group(*rows) if rows else None


def _ago(at: datetime | None, now: datetime) -> str:
    if at is None:
        return "?"
    seconds = max(0, int((now - at).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


def _advice(picture: Picture) -> RenderableType:
    return draw_columns(
        [
            [Text(f"  {command}", style="bold"), Text(effect, style="dim")]
            for command, effect in next_commands(picture)
        ]
    )


def draw_list(pictures: Iterable[Picture], *, with_namespace: bool) -> RenderableType:
    """One line for each LLMDeployment."""
    shown = list(pictures)
    judged = any(picture.status.gates for picture in shown)
    headings = ["NAME", "PHASE", "STABLE", "CANARY", "STEP", "SHARE"]
    headings += [*(["VERDICT"] if judged else []), "WORKERS", "MESSAGE"]
    rows: list[list[str | Text]] = []
    for picture in shown:
        status = picture.status
        step = share = "-"
        if status.canary_revision:
            share = _asked_and_measured(status.share, status.measured_share)
            if status.step is not None:
                step = f"{status.step.index + 1}/{len(picture.steps) - 1} {status.step.kind}"
        rows.append(
            [
                *([picture.namespace] if with_namespace else []),
                picture.name,
                Text(picture.phase, style=_COLOURS.get(picture.phase, "")),
                status.stable_revision or "-",
                status.canary_revision or "-",
                step,
                share,
                *([summarize_verdicts(status) or "-"] if judged else []),
                f"{status.ready_replicas or 0}/{status.replicas or 0}",
                picture.problem or status.message or "",
            ]
        )
    return draw_columns(rows, ["NAMESPACE", *headings] if with_namespace else headings)
