"""What a person can type next, in the state that a rollout is in; decides nothing.

Only commands that the operator would not refuse at that moment stand here. Used by the status
screen and by its JSON form.
"""

from __future__ import annotations

from llmrollouts.cli.picture import Picture


def next_commands(picture: Picture) -> list[tuple[str, str]]:
    """(command, what it does), the most likely one first."""
    status = picture.status
    if status.canary_revision:
        return _during_rollout(picture, status.canary_revision)
    if status.warm:
        warm = status.warm.revision
        return [_say(picture, "rollback", f"everyone back to {warm}, which is still warm")]
    last = status.last_rollback
    if last is not None and last.rejects and picture.phase in {"Degraded", "Failed"}:
        return [
            _say(picture, "history", "what happened"),
            _say(picture, "retry", f"try {last.revision} again, from the first step"),
        ]
    return [
        _say(picture, "history", "what happened so far"),
        _say(picture, "status", "watch it", " --watch"),
    ]


def _during_rollout(picture: Picture, canary: str) -> list[tuple[str, str]]:
    status = picture.status
    back = _say(picture, "rollback", f"everyone back to {status.stable_revision} now")
    if status.paused:
        return [_say(picture, "resume", "go on with this step"), back]
    if status.hold:
        frozen = any(gate.verdict == "Frozen" for gate in status.gates)
        resume = _say(picture, "resume", "go on where it stood, once the cause is gone")
        return [
            back,
            # Refused while the gate is frozen: it would be held again at once.
            *([] if frozen and not status.promotion else [resume]),
            _say(picture, "promote", "end this step in spite of it and go on"),
            _say(picture, "promote", f"everyone to {canary}, without further steps", " --full"),
        ]
    if status.promotion:
        return [back]
    return [
        back,
        _say(picture, "pause", "stay in this step, at this share"),
        _say(picture, "promote", "end this step now and go on"),
        _say(picture, "status", "watch it", " --watch"),
    ]


def _say(picture: Picture, verb: str, effect: str, more: str = "") -> tuple[str, str]:
    return f"kubectl llm {verb} {picture.name} -n {picture.namespace}{more}", effect
