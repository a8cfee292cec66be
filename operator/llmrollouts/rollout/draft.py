"""The status under decision, with what there is to tell about it: passed from stage to stage.

A value: each stage returns a new one. Decides nothing. Used by every stage of plan().
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import HISTORY_ENTRIES, HistoryEntry, LLMDeploymentStatus
from llmrollouts.rollout.effects import Effect, Notice


@dataclass(frozen=True, slots=True)
class Draft:
    """status: to be committed; effects: those that no later round can derive from the status;
    target: the revision that is wanted; None while that cannot be said (a reference is missing, its
    record is not stored yet), and then nothing starts and nothing advances.
    again: a transition was made and the next decision is due at once."""

    status: LLMDeploymentStatus
    target: str | None = None
    notices: tuple[Notice, ...] = ()
    effects: tuple[Effect, ...] = ()
    again: bool = False

    def put(self, **changes: Any) -> Draft:
        """The same with other values in the status."""
        return replace(self, status=self.status.model_copy(update=changes))

    def tell(
        self,
        kind: Literal["Normal", "Warning"],
        reason: Reason,
        message: str,
        *,
        revision: str,
        at: datetime,
    ) -> Draft:
        """A transition: an Event, a line of the history, and another round at once."""
        entry = HistoryEntry(at=at, revision=revision, event=str(reason), message=message)
        history = [*self.status.history, entry][-HISTORY_ENTRIES:]
        return replace(
            self,
            status=self.status.model_copy(update={"history": history}),
            notices=(*self.notices, Notice(kind, str(reason), message)),
            again=True,
        )

    def demand(self, effect: Effect) -> Draft:
        return replace(self, effects=(*self.effects, effect))
