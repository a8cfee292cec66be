"""Which stored revision is wanted, which records to write and which to forget.

A revision is identified by what the user gave (its source) compared with the stored records; no
hash is ever computed again to find one. Of several records with one source (after `refresh`) the
newest counts. Called by plan(); stores and deletes nothing itself, it asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.resources.policy import refuse_revision
from llmrollouts.resources.revision import make_revision
from llmrollouts.rollout.checks import REASONS, Objection
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.effects import DeleteRevision, Effect, StoreRevision
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.observation import RevisionRecord

# Records of revisions without workers that are kept for `rollback:<revision>`.
HISTORY_LIMIT: Final = 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """target: the wanted revision, None while it cannot be said; store: the record to write
    first; problem: why neither can be said."""

    target: str | None = None
    store: StoreRevision | None = None
    problem: Objection | None = None


def find_target(draft: Draft, facts: Facts) -> tuple[Draft, Wanted]:
    """The wanted revision, and the draft with an override that no longer holds removed."""
    status = draft.status
    if status.override_revision is not None and status.override_source != facts.source_digest:
        draft = draft.put(override_revision=None, override_source=None)
    elif status.override_revision is not None:
        return draft, Wanted(target=status.override_revision)
    found = newest_of_source(facts)
    if found is not None:
        return draft, Wanted(target=found.name)
    return draft, make_record(facts)


def newest_of_source(facts: Facts) -> RevisionRecord | None:
    """The record of what the spec says now."""
    return max(
        (r for r in facts.observation.revisions if r.source == facts.observation.source),
        key=lambda record: (record.number, record.name),
        default=None,
    )


def make_record(facts: Facts) -> Wanted:
    """The record to write for the spec as it reads now, or why there can be none."""
    given = facts.observation
    if given.problem is not None:
        known = REASONS.get(given.problem.reason, Reason.INVALID_SPEC)
        return Wanted(problem=Objection(known, given.problem.message))
    deployment = facts.deployment
    refusal = refuse_revision(deployment.name, deployment.spec.revision, facts.settings)
    if refusal is not None:
        return Wanted(problem=Objection(refusal.reason, refusal.message))
    number = 1 + max((record.number for record in given.revisions), default=0)
    same = next(
        (
            record
            for record in given.revisions
            if record.source == given.source and dict(record.texts) == dict(given.texts)
        ),
        None,
    )
    if same is not None:
        return Wanted(store=StoreRevision(_renumber(same, number)))
    try:
        content = make_revision(
            deployment.name,
            deployment.spec,
            given.source,
            given.texts,
            facts.settings,
            number,
            frozenset(facts.records),
        )
    except (ValueError, KeyError) as error:
        return Wanted(problem=Objection(Reason.INVALID_SPEC, str(error)))
    # Where workers of this very revision live, its record was deleted: what they run is the truth.
    living = facts.workers.get(content.name)
    template = living.template if living is not None and living.template else content.template
    return Wanted(
        store=StoreRevision(
            RevisionRecord(
                name=content.name,
                number=content.number,
                source=content.source,
                texts=content.texts,
                template=template,
                files=content.files,
            )
        )
    )


def texts_differ(facts: Facts) -> bool:
    """Whether a reference of the stored wanted revision reads differently now."""
    found = newest_of_source(facts)
    if found is None or facts.observation.problem is not None:
        return False
    return dict(found.texts) != dict(facts.observation.texts)


def lost_revisions(status: LLMDeploymentStatus, facts: Facts) -> tuple[str, ...]:
    """Living revisions whose record was deleted."""
    named = (
        status.stable_revision,
        status.canary_revision,
        status.warm.revision if status.warm is not None else None,
    )
    return tuple(name for name in named if name is not None and name not in facts.records)


def forgotten(status: LLMDeploymentStatus, target: str | None, facts: Facts) -> tuple[Effect, ...]:
    """Records beyond the history limit; never one that lives or is wanted."""
    if target is None:
        return ()
    kept = {
        target,
        status.stable_revision,
        status.canary_revision,
        status.override_revision,
        status.warm.revision if status.warm is not None else None,
        *(leaving.revision for leaving in status.retiring),
        *facts.workers,
    }
    past = sorted(
        (record for record in facts.observation.revisions if record.name not in kept),
        key=lambda record: (record.number, record.name),
        reverse=True,
    )
    return tuple(DeleteRevision(record.name) for record in past[HISTORY_LIMIT:])


def _renumber(record: RevisionRecord, number: int) -> RevisionRecord:
    return RevisionRecord(
        name=record.name,
        number=number,
        source=record.source,
        texts=record.texts,
        template=record.template,
        files=record.files,
        created_at=record.created_at,
        rejected=record.rejected,
    )
