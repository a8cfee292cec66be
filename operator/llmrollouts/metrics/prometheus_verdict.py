"""From single answers to a verdict: how many bad ones, and how many errors, in a row.

    Inconclusive ──good──> Passed          good: the bound is kept      bad: it is broken
         │ bad x failuresForFailed         error: there is no number
         v
       Failed            error x maxErrors, or one that lasts ──> Error

A single bad answer takes Passed back to Inconclusive; a single error leaves the verdict as it is,
so it can neither pass nor fail anything (R08), and does not interrupt a run of bad answers; a run
of errors does, because what was bad then is long ago. A bad answer that is partly made of the time
before requests flowed does not count. Pure; called by controller/prometheus_asking.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import Verdict
from llmrollouts.metrics.prometheus_answer import Unanswered


@dataclass(frozen=True, slots=True)
class Bound:
    """value: of the answer, or of canary divided by stable. upper: larger is bad, else smaller."""

    value: float
    upper: bool
    ratio: bool

    def is_kept(self, value: float) -> bool:
        return value <= self.value if self.upper else value >= self.value

    def describe(self, canary: float, stable: float | None) -> str:
        """What was found and what is allowed, such as ``0.31, allowed is at most 0.25``."""
        found = f"{canary:.6g}"
        if stable is not None:
            found = f"{canary:.6g} against stable's {stable:.6g}, a ratio of {canary / stable:.4g}"
        return f"{found}; allowed is at {'most' if self.upper else 'least'} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Patience:
    """How many in a row decide."""

    failures: int
    errors: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What the answers of one stage so far amount to.

    bad, errors: in a row, up to now. bad_since: seconds, when the run of bad answers began, on the
    caller's clock; decided: when the verdict became Failed.
    """

    verdict: Verdict = "Inconclusive"
    reason: Reason = Reason.NOT_ASKED_YET
    message: str = "it was not asked in this step yet"
    bad: int = 0
    errors: int = 0
    bad_since: float | None = None
    decided: float | None = None


def take_answer(
    standing: Standing,
    bound: Bound,
    patience: Patience,
    canary: float,
    stable: float | None,
    now: float,
    early: str = "",
) -> Standing:
    """The standing after a number. ``stable``: above 0, for a comparison only. ``early``: why a bad
    one does not count yet; empty: it does."""
    told = bound.describe(canary, stable)
    if bound.is_kept(canary if stable is None else canary / stable):
        return Standing("Passed", Reason.WITHIN_LIMIT, told)
    if early:
        return Standing("Inconclusive", Reason.LIMIT_BROKEN, f"{told} ({early})")
    bad = standing.bad + 1
    since = now if standing.bad_since is None else standing.bad_since
    if bad >= patience.failures:
        decided = now if standing.decided is None else standing.decided
        message = _with_run(told, bad)
        return Standing("Failed", Reason.LIMIT_BROKEN, message, bad, 0, since, decided)
    message = f"{told} ({_times(bad)}; {patience.failures} in a row make it fail)"
    return Standing("Inconclusive", Reason.LIMIT_BROKEN, message, bad, 0, since)


def take_error(standing: Standing, patience: Patience, error: Unanswered) -> Standing:
    """The standing after an evaluation without a number."""
    errors = standing.errors + 1
    if error.lasting or errors >= patience.errors:
        told = error.message if error.lasting else _with_run(error.message, errors)
        return Standing("Error", error.reason, told, errors=errors)
    if standing.verdict == "Error":
        # What lasted is over, and something else is wrong now.
        return Standing("Inconclusive", error.reason, error.message, errors=errors)
    told = f"{error.message} ({_times(errors)}; {patience.errors} in a row are an error)"
    if standing.verdict == "Inconclusive":
        return replace(standing, reason=error.reason, message=told, errors=errors)
    return replace(standing, errors=errors)


def _with_run(told: str, count: int) -> str:
    return told if count == 1 else f"{told} ({_times(count)} in a row)"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
