"""One gate from Prometheus in one stage: asks every interval and knows where it stands.

It decides what is asked (which revisions, with which bound and credentials) and when; what the
answers amount to is decided in metrics/prometheus_verdict. A rate over the last two minutes of a
worker that got requests for one is half of the truth, and one over a gap in the data is the truth
about a few requests, so a bad answer counts only once requests have flowed, and Prometheus has
answered since an outage, for as long as the query looks back. A gate that can never be asked as it
stands is an Error at once. Made and stopped by controller/prometheus_gates.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from llmrollouts.api.duration import format_duration, parse_duration
from llmrollouts.api.prometheus_gate import PrometheusCompare, PrometheusGate, PrometheusLimit
from llmrollouts.api.reasons import Reason
from llmrollouts.controller.keys import Key
from llmrollouts.controller.prometheus_secrets import read_credentials
from llmrollouts.kube.port import Reader
from llmrollouts.metrics.prometheus import PrometheusPort, Question
from llmrollouts.metrics.prometheus_address import AllowedAddresses, Permit
from llmrollouts.metrics.prometheus_answer import Unanswered
from llmrollouts.metrics.prometheus_query import look_back
from llmrollouts.metrics.prometheus_verdict import (
    Bound,
    Patience,
    Standing,
    take_answer,
    take_error,
)

LOG: Final = logging.getLogger(__name__)

_OLD: Final = 3  # intervals
_SHORTEST_INTERVAL: Final = 10.0
_LONGEST_TIMEOUT: Final = 60.0
_ANSWERED: Final = "Answered"


@dataclass(frozen=True, slots=True)
class Stage:
    """What is judged: the revision on its way, beside the stable one, in one step; or after the
    promotion (``watch``) the new stable revision, beside the one that it replaced.

    began: distinguishes a step from an earlier one of the same kind. name: status.attempt.stage.
    """

    canary: str
    stable: str | None
    name: str
    began: datetime | None = None
    watch: bool = False


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is asked in each evaluation. queries: of the canary, and of stable to compare.
    looks_back: seconds. flows_since: of the loop's clock, since when all that is asked about gets
    requests."""

    permit: Permit
    bound: Bound
    queries: tuple[str, ...]
    looks_back: float
    flows_since: float


@dataclass(frozen=True, slots=True)
class Asked:
    """One evaluation, for the operator's metrics. result: ``Answered``, or the reason why there is
    no number; seconds: from its turn to its end, Secrets and both revisions included; value: what
    was judged, the answer or its ratio to stable's."""

    key: Key
    gate: str
    result: str
    seconds: float
    value: float | None = None


class Asking:
    """One gate in one stage: asks every interval, and knows where it stands.

    told: hears of each evaluation. answered_since: by the name of a gate, of the loop's clock, when
    the last outage of Prometheus ended that it met; shared by all of a deployment, and kept up.
    """

    def __init__(
        self,
        key: Key,
        gate: PrometheusGate,
        reader: Reader,
        port: PrometheusPort,
        turn: asyncio.Semaphore,
        now: Callable[[], datetime],
        told: Callable[[Asked], None] | None,
        answered_since: dict[str, float],
    ) -> None:
        self.gate = gate
        self._answered_since = answered_since
        self._key = key
        self._reader = reader
        self._port = port
        self._turn = turn
        self._now = now
        self._told = told
        self._interval = max(_SHORTEST_INTERVAL, parse_duration(gate.interval))
        self._seconds = min(self._interval, _LONGEST_TIMEOUT, parse_duration(gate.timeout))
        self._patience = Patience(gate.failures_for_failed, gate.max_errors)
        self._loop = asyncio.get_running_loop()
        self._standing = Standing()
        self._heard_at = self._loop.time()
        self._task: asyncio.Task[None] | None = None

    def start(
        self,
        allowed: AllowedAddresses,
        stage: Stage,
        fill: Callable[[str], str],
        flowing: Mapping[str, float],
    ) -> None:
        """Ask from one interval on; a gate that can never be asked says so at once. ``flowing``:
        since when each revision gets requests, of the loop's clock."""
        try:
            plan = _make_plan(self.gate, allowed, stage, fill, flowing)
        except Unanswered as error:
            self._take(take_error(self._standing, self._patience, error))
            return
        self._task = self._loop.create_task(self._run(plan), name=f"prometheus {self._key}")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def judge(self) -> Standing:
        age = self._loop.time() - self._heard_at
        if self._task is None or age <= _OLD * self._interval:
            return self._standing
        return Standing(
            "Error",
            Reason.STALE_ANSWER,
            f"nothing was heard for {format_duration(int(age))}, which is more than {_OLD} "
            "intervals: the operator has more gates to ask than it can, or Prometheus is slow; "
            "raise the intervals",
        )

    async def _run(self, plan: _Plan) -> None:
        # Not all at once: the gates of a step begin together.
        await asyncio.sleep(self._interval * random.uniform(0.9, 1.0))  # noqa: S311
        while True:
            began = self._loop.time()
            async with self._turn:
                await self._evaluate(plan)
            await asyncio.sleep(max(0.0, began + self._interval - self._loop.time()))

    async def _evaluate(self, plan: _Plan) -> None:
        began = self._loop.time()
        try:
            canary, stable = await self._ask(plan)
        except Unanswered as error:
            self._fail(error, began)
        except Exception as error:  # noqa: BLE001 - a bug costs this gate its answer, nothing else
            self._fail(self._meet_bug(error), began)
        else:
            self._tell(_ANSWERED, began, canary if stable is None else canary / stable)
            if self._standing.verdict == "Error":
                self._answered_since[self.gate.name] = self._loop.time()
            now = self._now().timestamp()
            bound, patience = plan.bound, self._patience
            early = self._find_early(plan)
            self._take(take_answer(self._standing, bound, patience, canary, stable, now, early))

    def _find_early(self, plan: _Plan) -> str:
        answered_since = self._answered_since.get(self.gate.name, -math.inf)
        since, what = max(
            (plan.flows_since, "requests flow"), (answered_since, "Prometheus answers again")
        )
        left = since + plan.looks_back - self._loop.time()
        if left <= 0:
            return ""
        return (
            f"the query looks back {format_duration(plan.looks_back)}, and {what} for less than "
            f"that: a bad answer counts in {math.ceil(left)}s"
        )

    def _fail(self, error: Unanswered, began: float) -> None:
        self._tell(str(error.reason), began)
        self._take(take_error(self._standing, self._patience, error))

    def _tell(self, result: str, began: float, value: float | None = None) -> None:
        if self._told is not None:
            seconds = self._loop.time() - began
            self._told(Asked(self._key, self.gate.name, result, seconds, value))

    async def _ask(self, plan: _Plan) -> tuple[float, float | None]:
        """The canary's answer, and stable's where they are compared."""
        namespace = self._key.namespace
        answers = await self._port.ask(
            Question(
                plan.permit,
                await read_credentials(self._reader, namespace, self.gate.auth),
                plan.queries,
                parse_duration(self.gate.max_age),
                self._seconds,
            )
        )
        if not plan.bound.ratio:
            return answers[0], None
        canary, stable = answers
        if stable <= 0:
            raise Unanswered(
                Reason.NOT_COMPARABLE,
                f"stable's answer is {stable:.6g}, and nothing can be said of a ratio to it (the "
                f"canary's is {canary:.6g}): use a limit instead, or add a constant to the query",
            )
        return canary, stable

    def _meet_bug(self, error: Exception) -> Unanswered:
        """Where it happened, without its text: that may hold what was sent, credentials too."""
        names = {
            "llmdeployment": str(self._key),
            "gate": self.gate.name,
            "error": type(error).__name__,
            "trace": "".join(traceback.format_tb(error.__traceback__))[-4000:],
        }
        LOG.error("Failed to ask a Prometheus in an unexpected way", extra=names)
        return Unanswered(
            Reason.GATE_BROKEN,
            f"the operator met an error of its own ({type(error).__name__}): its log has the trace",
        )

    def _take(self, standing: Standing) -> None:
        if standing.verdict != self._standing.verdict:
            names = {
                "llmdeployment": str(self._key),
                "gate": self.gate.name,
                "verdict": standing.verdict,
                "reason": str(standing.reason),
            }
            LOG.info("Changed the verdict of a gate from Prometheus", extra=names)
        self._standing = standing
        self._heard_at = self._loop.time()


def _make_plan(
    gate: PrometheusGate,
    allowed: AllowedAddresses,
    stage: Stage,
    fill: Callable[[str], str],
    flowing: Mapping[str, float],
) -> _Plan:
    """Raises Unanswered, lasting, when it can never be asked as it stands."""
    permit = _find_permit(gate.address, allowed)
    bound = _read_bound(gate)
    asked = [stage.canary]
    if bound.ratio:
        if stage.stable is None:
            raise _invalid("there is no stable revision to compare with: use a limit")
        asked.append(stage.stable)
    since = max(flowing.get(revision, -math.inf) for revision in asked)
    queries = tuple(fill(revision) for revision in asked)
    return _Plan(permit, bound, queries, look_back(gate.query), since)


def _find_permit(address: str, allowed: AllowedAddresses) -> Permit:
    try:
        permit = allowed.permit(address)
    except ValueError as error:
        raise _invalid(f"address: {error}") from None
    if permit is not None:
        return permit
    told = (
        f"the operator's configuration does not allow {address}"
        if allowed
        else "the operator's configuration allows no Prometheus at all"
    )
    raise Unanswered(
        Reason.ADDRESS_NOT_ALLOWED,
        f"{told}: ask its administrator to add it to the chart's operator.allowedPrometheus",
        lasting=True,
    )


def _read_bound(gate: PrometheusGate) -> Bound:
    """The API server has checked it, but an object may be older than the rules."""
    limit = gate.limit or PrometheusLimit()
    compare = gate.compare or PrometheusCompare()
    given = [
        (text, upper, ratio)
        for text, upper, ratio in (
            (limit.max, True, False),
            (limit.min, False, False),
            (compare.max_ratio, True, True),
            (compare.min_ratio, False, True),
        )
        if text is not None
    ]
    if len(given) != 1:
        raise _invalid("set exactly one of limit.max, limit.min, compare.maxRatio, .minRatio")
    text, upper, ratio = given[0]
    if ratio and "{{revision}}" not in gate.query:
        raise _invalid("a comparison asks the same query for both revisions: name {{revision}}")
    return Bound(float(text), upper, ratio)


def _invalid(message: str) -> Unanswered:
    return Unanswered(Reason.GATE_INVALID, message, lasting=True)
