"""Commands of people: taken in exactly once, executed or refused with a reason.

The protocol: a new value of the annotation gets the next sequence number, which the status commits
together with the command's effect; then the annotation is removed by a patch that tests its value
and records the number on the object. So a status number above the annotation's number means "done,
not yet removed", and after the removal the same value is a new command. A command that stands in
the applied manifest is refused and left alone: it would come back with each sync.
Called by plan() before anything else is decided: a person's rollback wins over all (R16, R31).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmrollouts.api.command import Command, parse_command
from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import NAME_LENGTH, CommandStatus, LLMDeploymentStatus
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.effects import RejectRevision, RemoveCommand
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.gates import describe, frozen_gate
from llmrollouts.rollout.observation import Deployment
from llmrollouts.rollout.revisions import Wanted, make_record, newest_of_source, texts_differ
from llmrollouts.rollout.rollback import is_rejected, retiring_with, send_back
from llmrollouts.rollout.start import begin_rollout, what_blocks_start
from llmrollouts.rollout.steps import pass_step, start_promotion, was_edited


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did. draft: with the effect; reason and message tell a person."""

    draft: Draft
    done: bool
    reason: Reason
    message: str
    # The command must be looked at again in the next round and is not taken in yet.
    unfinished: bool = False


def obey(draft: Draft, facts: Facts) -> Draft:
    """Take in the command that stands on the object, if it is a new one."""
    given = facts.deployment.command
    last = draft.status.command
    recorded = facts.deployment.command_sequence
    if given is None:
        if last is not None and last.sequence > recorded and not last.withdrawn:
            return draft.put(command=last.model_copy(update={"withdrawn": True}))
        return draft
    value = _shorten(given)
    if last is not None and is_taken(facts.deployment):
        if facts.deployment.command_applied:
            return draft
        return draft.demand(RemoveCommand(given, last.sequence))
    outcome = _execute(draft, facts, given)
    if outcome.unfinished:
        return outcome.draft
    sequence = 1 + max(last.sequence if last is not None else 0, recorded)
    told = outcome.draft.put(
        command=CommandStatus(
            sequence=sequence,
            value=value,
            at=facts.now,
            result="Done" if outcome.done else "Refused",
            reason=str(outcome.reason),
            message=outcome.message,
        )
    )
    revision = draft.status.canary_revision or draft.status.stable_revision or draft.target or ""
    told = told.tell(
        "Normal" if outcome.done else "Warning",
        outcome.reason,
        f"Command {value[:80]!r}: {outcome.message}",
        revision=revision,
        at=facts.now,
    )
    if facts.deployment.command_applied:
        return told
    return told.demand(RemoveCommand(given, sequence))


def is_taken(deployment: Deployment) -> bool:
    """Whether the command on the object was taken in by an earlier round."""
    last, given = deployment.status.command, deployment.command
    return (
        last is not None
        and given is not None
        and last.value == _shorten(given)
        and last.sequence > deployment.command_sequence
        and not last.withdrawn
    )


def sends_canary_back(status: LLMDeploymentStatus, revision: str | None) -> bool:
    """Whether a rollback that names ``revision`` (or none) takes the canary's users back."""
    canary = status.canary_revision
    return canary is not None and revision in (None, canary, status.stable_revision)


def _shorten(given: str) -> str:
    return given if len(given) <= NAME_LENGTH else given[: NAME_LENGTH - 1] + "…"


def _execute(draft: Draft, facts: Facts, given: str) -> Outcome:
    if facts.deployment.command_applied:
        return _refuse(
            draft,
            Reason.COMMAND_IN_GIT,
            "it stands in the applied manifest, where it would be given again with each sync: "
            "take the annotation out of the manifest and use `kubectl llm` or `kubectl annotate`",
        )
    try:
        command = parse_command(given)
    except ValueError as error:
        return _refuse(draft, Reason.COMMAND_INVALID, str(error))
    match command.verb:
        case "rollback":
            return _roll_back(draft, facts, command)
        case "pause":
            return _pause(draft)
        case "resume":
            return _resume(draft, facts)
        case "retry":
            return _retry(draft, facts, command)
        case "refresh":
            return _refresh(draft, facts)
        case "promote-full":
            return _promote_fully(draft, facts, command)
        case "promote" | "skip":
            return _pass(draft, facts, command)


def _roll_back(draft: Draft, facts: Facts, command: Command) -> Outcome:
    status = draft.status
    stable, canary, wanted = status.stable_revision, status.canary_revision, command.revision
    warm = status.warm.revision if status.warm is not None else None
    if sends_canary_back(status, wanted):
        back = _send_back(draft, facts)
        return _done(back, f"all users go back from {canary} to {stable}")
    if canary is None and warm is not None and wanted in (None, warm):
        if facts.ready(warm) == 0:
            return _refuse(
                draft, Reason.NOTHING_TO_DO, f"no worker of {warm} is ready: users would get none"
            )
        back = _send_back(draft, facts)
        return _done(back, f"all users go back from {stable} to {warm}, which is warm")
    if wanted is None or wanted == stable:
        serving = f"{stable} answers all users" if stable else "nothing serves yet"
        return _refuse(
            draft,
            Reason.NOTHING_TO_DO,
            f"there is nothing to roll back: {serving}, no rollout is running and no replaced "
            "revision is warm; `rollback:<revision>` rolls a stored revision out again",
        )
    return _roll_out_stored(draft, facts, wanted)


def _send_back(draft: Draft, facts: Facts) -> Draft:
    return send_back(
        draft,
        facts,
        Reason.COMMANDED,
        "a person said so",
        rejects=True,
        requested_at=facts.deployment.command_at,
    )


def _roll_out_stored(draft: Draft, facts: Facts, wanted: str) -> Outcome:
    status = draft.status
    if wanted not in facts.records:
        return _refuse(
            draft,
            Reason.UNKNOWN_REVISION,
            f"{wanted} is not stored; `kubectl llm history` lists the revisions",
        )
    if is_rejected(wanted, status, facts):
        return _refuse(
            draft,
            Reason.REJECTED,
            f"{wanted} was rejected earlier; `retry:{wanted}` gives it another attempt when the "
            "spec asks for it",
        )
    canary = status.canary_revision
    if canary is not None:
        draft = _send_back(draft, facts)
    draft = replace(
        draft.put(override_revision=wanted, override_source=facts.source_digest), target=wanted
    )
    return _done(
        draft,
        f"{wanted} is wanted instead of the spec's revision until spec.revision changes; its "
        "workers are not warm, so it is rolled out step by step",
    )


def _pause(draft: Draft) -> Outcome:
    status = draft.status
    if status.canary_revision is None:
        return _refuse(draft, Reason.NOTHING_TO_DO, "no rollout is running")
    if status.paused:
        return _refuse(draft, Reason.NOTHING_TO_DO, "the rollout is paused already")
    return Outcome(
        draft.put(paused=True),
        True,
        Reason.PAUSED,
        f"paused: the share stays at {status.share or '0%'}, the step's clock stands still",
    )


def _resume(draft: Draft, facts: Facts) -> Outcome:
    status = draft.status
    if not status.paused and status.hold is None:
        return _refuse(draft, Reason.NOTHING_TO_DO, "the rollout is neither paused nor held")
    frozen = frozen_gate(status, facts)
    if status.hold is not None and status.promotion is None and frozen is not None:
        return _refuse(
            draft,
            Reason.GATE_FROZEN,
            f"{describe(frozen)}; it would be held again at once. `promote:"
            f"{status.canary_revision}` passes the step, `rollback` ends the rollout",
        )
    return Outcome(_unblock(draft), True, Reason.RESUMED, "the rollout goes on where it stood")


def _retry(draft: Draft, facts: Facts, command: Command) -> Outcome:
    status, target, wanted = draft.status, draft.target, command.revision
    if wanted is None or wanted != target:
        return _refuse(
            draft,
            Reason.NOT_THE_CANARY,
            f"the wanted revision is {target}, not {wanted}: only that one can be tried again",
        )
    forgiven = draft.put(last_rollback=_forgiven(draft, wanted))
    if status.stable_revision is None:
        # Fresh workers: the deaths of the old ones must not be counted again.
        fresh = forgiven.put(deaths=None, retiring=retiring_with(status, wanted, facts.now))
        record = facts.records.get(wanted)
        if record is not None and record.rejected is not None:
            fresh = fresh.demand(RejectRevision(wanted, None))
        return _done(fresh, f"{wanted} starts afresh once its old workers are gone")
    if not is_rejected(wanted, status, facts):
        return _refuse(draft, Reason.NOTHING_TO_DO, f"{wanted} is not rejected")
    blocked = what_blocks_start(draft, facts)
    if blocked is None:
        started = begin_rollout(forgiven, facts)
        return _done(started, f"a new attempt with {wanted} begins at the first step")
    if is_rejected(wanted, forgiven.status, facts):
        return _refuse(draft, blocked.reason, f"{blocked.message}; give the command again then")
    return _done(forgiven, f"a new attempt with {wanted} begins soon: {blocked.message}")


def _refresh(draft: Draft, facts: Facts) -> Outcome:
    """Stored first and taken in afterwards: a crash in between only stores it again."""
    problem = facts.observation.problem
    if problem is not None:
        return _refuse(
            draft, Reason.INVALID_SPEC, f"the references cannot be read: {problem.message}"
        )
    found = newest_of_source(facts)
    if found is None:
        return Outcome(draft, False, Reason.WAITING_FOR_SOURCE, "", unfinished=True)
    if not texts_differ(facts):
        return _done(draft, f"{found.name} holds the texts as they read now")
    made: Wanted = make_record(facts)
    if made.store is None:
        return _refuse(
            draft,
            Reason.INVALID_SPEC,
            made.problem.message if made.problem is not None else "no record can be made",
        )
    return Outcome(
        replace(draft.demand(made.store), again=True), False, Reason.STORED, "", unfinished=True
    )


def _promote_fully(draft: Draft, facts: Facts, command: Command) -> Outcome:
    status, wanted = draft.status, command.revision
    if status.canary_revision is None and wanted is not None and wanted == draft.target:
        if status.stable_revision is None or wanted == status.stable_revision:
            return _refuse(draft, Reason.NOTHING_TO_DO, f"{wanted} is on no rollout")
        blocked = what_blocks_start(draft, facts)
        if blocked is not None:
            return _refuse(draft, blocked.reason, f"{blocked.message}; give the command again then")
        draft = begin_rollout(draft.put(last_rollback=_forgiven(draft, wanted)), facts)
        status = draft.status
    if wanted is None or wanted != status.canary_revision:
        return _refuse_other(draft, wanted)
    if status.promotion is not None:
        return Outcome(_unblock(draft), True, Reason.PROMOTING, "the promotion runs already")
    draft = start_promotion(_unblock(draft), facts)
    return _done(draft, f"{wanted} is promoted without further steps")


def _pass(draft: Draft, facts: Facts, command: Command) -> Outcome:
    status, wanted = draft.status, command.revision
    if wanted is None or wanted != status.canary_revision or status.step is None:
        return _refuse_other(draft, wanted)
    if status.promotion is not None:
        if command.verb == "promote" and (status.hold is not None or status.paused):
            return _done(_unblock(draft), "the promotion goes on")
        return _refuse(draft, Reason.NOTHING_TO_DO, f"{wanted} is being promoted already")
    if draft.target != status.canary_revision:
        return _refuse(
            draft,
            Reason.WAITING_FOR_SOURCE,
            "the spec's revision cannot be read now: nothing moves",
        )
    if command.verb == "skip" and (status.paused or status.hold is not None):
        return _refuse(
            draft,
            Reason.PAUSED if status.paused else Reason.HELD,
            f"the rollout {'is paused' if status.paused else 'is held'}: `resume` first, or "
            f"`promote:{wanted}`",
        )
    if status.hold is None and was_edited(status.step, facts):
        # The next step is another one than the person saw: first follow the edit.
        return Outcome(replace(draft, again=True), False, Reason.STEP_STARTED, "", unfinished=True)
    number = status.step.index + 1
    passed = pass_step(
        _unblock(draft),
        facts,
        Reason.STEP_SKIPPED,
        f"A person passed {status.step.kind.lower()} step {number}",
    )
    return _done(passed, f"step {number} is over")


def _unblock(draft: Draft) -> Draft:
    """Pause and hold end; causes of a lapse are counted from zero again."""
    lapse, step = draft.status.lapse, draft.status.step
    if step is not None and draft.status.hold is not None:
        # A person who lets a held step go on gives it its deadline again.
        step = step.model_copy(update={"waited_seconds": 0.0, "waiting_since": None})
    return draft.put(
        paused=False,
        hold=None,
        step=step,
        lapse=lapse.model_copy(update={"counts": {}}) if lapse is not None else None,
    )


def _forgiven(draft: Draft, revision: str) -> object:
    last = draft.status.last_rollback
    if last is None or last.revision != revision:
        return last
    return last.model_copy(update={"rejects": False})


def _done(draft: Draft, message: str) -> Outcome:
    return Outcome(draft, True, Reason.COMMAND_DONE, message)


def _refuse(draft: Draft, reason: Reason, message: str) -> Outcome:
    return Outcome(draft, False, reason, f"refused: {message}")


def _refuse_other(draft: Draft, wanted: str | None) -> Outcome:
    canary = draft.status.canary_revision
    now = f"the canary is {canary}" if canary is not None else "no rollout is running"
    return _refuse(draft, Reason.NOT_THE_CANARY, f"it names {wanted}, but {now}")
