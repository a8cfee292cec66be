"""The state machine of a rollout: the only place that decides.

Theory of operation
-------------------
``plan`` is a pure function of what one round observed and of the time. It is *level-triggered*: it
asks where things stand, never what happened, so a lost event, a crash between two writes or a new
leader changes nothing but the time. What must be remembered is in the status, which is committed
before any effect; traffic and worker sizes are then derived from that status alone (routes.py,
workers.py), so the next round heals whatever the last one left half done.

Two rules keep users safe, whatever else happens:

* A share **falls** at once, without any condition and before the commit (``intent.lowered``);
  it **rises** only after the commit, only to what the step asks for, only as far as the canary's
  ready workers carry it, and only on fresh evidence.
* Workers are deleted only after every proxy confirmed that nobody is sent to them.

States and transitions (a box is a state of the status, not of ``phase``, which is only printed):

                                   a changed spec.revision starts afresh
                                 +-----------------------------------------+
                                 v                                         |
    no stable ----> first revision starts ---- 2 deaths of containers ---> Failed
    (stable=None)     | a worker is ready
                      v
      +-----------> STABLE <------------------------------------------------------------+
      |               | the spec (or rollback:<rev>) names another stored revision,     |
      |               | not rejected; earlier workers are gone; the warm window ends    |
      |               v                                                                 |
      |     +---> STEP i  shadow or canary; share <= step i                             |
      |     |         | every check of step_checks.py is content, or promote / skip     |
      |     +---------+ i+1                                                             |
      |               |                                                                 |
      |               | after the last step, or promote-full                            |
      |               v                                                                 |
      |     PROMOTION Growing -> Shifting -> Switching -> Clearing                      |
      |               |              |            |           | every gateway agrees    |
      |               |              +-----lapse--+           v                         |
      |               |                    back to       STABLE with the old one WARM --+
      |               |                    Growing            |  window over: old retires
      |               |                                       |
      |               +---- ROLLBACK <------------------------+  fails while watched (R15)
      |                       | from any step or stage: command, failed gate, second death,
      |                       | the spec went back, another revision took its place
      |                       v
      +---------------- old side serves; the other is RETIRING:
                        share 0 confirmed -> out of the proxies -> quiet -> workers deleted

    Beside the step: LAPSE (share 0 without a verdict, back after 60 s of health; twice for one
    cause: HOLD), PAUSE (the share stays, the clock stands still) and HOLD (a person is needed: two
    lapses, a frozen gate, a deadline without enough evidence). While the old one is WARM it answers
    1 % as the control that the new one is compared with.

What moves a rollout on is evidence, never its absence (gates.py): a step passes when no gate sees
harm, and before a share above 5 % or the promotion when the gates have *shown* that there is none.
A step that cannot get its evidence ends at its deadline as spec.strategy.onInconclusive says.

The order of one round, first things first:

1. believe the status, or rebuild it from the children           recall.py
2. find the wanted revision; ask to store it if it is new        revisions.py
3. obey a person's command                                       commands.py
4. follow the spec: revert, replace                              here
5. verdicts: deaths, gates, lapse, the watch after a promotion   failure.py gates.py lapse.py
6. advance: first revision, step, promotion, start of a rollout  bootstrap.py steps.py promotion.py
7. name the stage and its level; retire what is not wanted       attempt.py retire.py
8. say how it stands; derive traffic and workers                 conditions.py summary.py routes.py

It never raises on any observation, reads no clock, and does no I/O. Called by the controller.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from llmrollouts.api.reasons import Reason
from llmrollouts.api.settings import OperatorSettings
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.rollout.attempt import keep_attempt
from llmrollouts.rollout.bootstrap import start_first
from llmrollouts.rollout.clock import is_due
from llmrollouts.rollout.commands import obey
from llmrollouts.rollout.conditions import observe_conditions
from llmrollouts.rollout.deaths import count_deaths
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.effects import Effect, Plan
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.failure import send_back_failed
from llmrollouts.rollout.gates import describe, frozen_gate, note_gates
from llmrollouts.rollout.lapse import lapse, renews
from llmrollouts.rollout.observation import Observation
from llmrollouts.rollout.printing import finish
from llmrollouts.rollout.promotion import promote, watch
from llmrollouts.rollout.recall import recall
from llmrollouts.rollout.retire import deletions, retire
from llmrollouts.rollout.revisions import Wanted, find_target, forgotten
from llmrollouts.rollout.rollback import record_times, rejections, replace_canary, send_back
from llmrollouts.rollout.routes import route
from llmrollouts.rollout.start import start_wanted
from llmrollouts.rollout.steps import run_step
from llmrollouts.rollout.summary import summarize
from llmrollouts.rollout.timing import wake_after
from llmrollouts.rollout.workers import changes


def plan(observation: Observation, settings: OperatorSettings, now: datetime, epoch: int) -> Plan:
    """What this round wants: see the module. ``now``: aware; ``epoch``: this leader's term."""
    before = observation.deployment.status
    if observation.deployment.deleting or (before.epoch is not None and before.epoch > epoch):
        # Owner references clean up; a leader of an older term writes nothing.
        return Plan(status=before, traffic=None)
    facts = Facts(observation, settings, now, epoch)
    recalled = recall(before, facts)
    draft, wanted = find_target(recalled, facts)
    draft = replace(draft, target=wanted.target)
    draft = decide(draft, recalled.status, facts)
    return _complete(draft, wanted, before, facts)


def decide(draft: Draft, before: LLMDeploymentStatus, facts: Facts) -> Draft:
    """Stages 3 to 7. ``before``: the status as it was believed at the round's beginning."""
    due = is_due(draft.status, facts)
    draft = obey(draft, facts)
    draft = follow_spec(draft, facts)
    draft = count_deaths(draft, facts)
    draft = note_gates(draft, facts, commits=due)
    draft = judge(draft, facts)
    draft = lapse(draft, facts)
    draft = watch(draft, facts)
    if draft.status.stable_revision is None:
        draft = start_first(draft, before, facts)
    elif draft.status.canary_revision is None:
        draft = start_wanted(draft, facts)
    elif draft.status.promotion is not None:
        draft = promote(draft, facts)
    else:
        draft = run_step(draft, facts)
    draft = keep_attempt(draft, facts, commits=due or draft.again)
    return record_times(retire(draft, facts), facts)


def follow_spec(draft: Draft, facts: Facts) -> Draft:
    """The wanted revision is another than the one on its way, or one that is warm."""
    status, target = draft.status, draft.target
    if target is None or status.stable_revision is None:
        return draft
    if status.canary_revision is not None:
        if target == status.canary_revision:
            return draft
        if target == status.stable_revision:
            return send_back(
                draft,
                facts,
                Reason.REVERTED,
                f"the wanted revision is {target} again",
                rejects=False,
            )
        switching = status.promotion is not None and status.promotion.stage in (
            "Switching",
            "Clearing",
        )
        # Users are on it already: the promotion ends first, within seconds.
        return draft if switching else replace_canary(draft, facts, target)
    if status.warm is not None and status.warm.revision == target and facts.ready(target) > 0:
        return send_back(
            draft,
            facts,
            Reason.REVERTED,
            f"the wanted revision is {target} again, which is warm",
            rejects=False,
        )
    return draft


def judge(draft: Draft, facts: Facts) -> Draft:
    """Verdicts on the canary: its second death, a failed gate, a frozen one."""
    status = draft.status
    canary = status.canary_revision
    if canary is None:
        return draft
    back = send_back_failed(draft, facts, canary, Reason.GATE_FAILED)
    if back is not None:
        return back
    frozen = frozen_gate(status, facts)
    if frozen is None or status.hold is not None or status.promotion is not None:
        # A promotion goes on: where stable is the slow one, it is the way out (R06).
        return draft
    hold = (
        f"{describe(frozen)}; nothing is rolled back, because stable is no better: look at both. "
        f"`promote:{canary}` passes the step, `rollback` ends the rollout, `resume` goes on once "
        "the gate is content"
    )
    return draft.put(hold=hold).tell(
        "Warning", Reason.GATE_FROZEN, f"Held: {hold}", revision=canary, at=facts.now
    )


def _complete(draft: Draft, wanted: Wanted, before: LLMDeploymentStatus, facts: Facts) -> Plan:
    traffic = route(draft.status, facts)
    phase, message = summarize(draft, wanted, facts)
    conditions = observe_conditions(before, draft, wanted, traffic, facts)
    status = finish(draft.status, before, phase, message, conditions, facts)
    stored: tuple[Effect, ...] = (wanted.store,) if wanted.store is not None else ()
    # What may be refused for long (a quota, an admission rule) comes after what frees and clears.
    effects: tuple[Effect, ...] = (
        *draft.effects,
        *rejections(before, draft.status, facts),
        *deletions(draft.status, facts),
        *stored,
        *changes(draft, facts),
        *forgotten(draft.status, draft.target, facts),
    )
    return Plan(
        status=status,
        traffic=traffic,
        effects=effects,
        notices=draft.notices,
        renew=renews(draft.status, facts),
        wake_after=wake_after(draft, wanted, traffic, facts),
    )
