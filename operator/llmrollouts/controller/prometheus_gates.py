"""The gates of spec.gates.prometheus: when they are asked, and what they say in a round.

    judge ──reads──> Standing <──writes── a task for each gate: every interval, Secrets -> answers

Each gate of a running step is asked in the background; ``judge`` only reads what the last answers
amount to (metrics/prometheus_verdict) and never waits, so a slow Prometheus delays neither a round
nor a rollback of another gate. A gate is asked first one interval after requests began to flow in
a step: what it says then is about this step. While nothing flows it is not asked and says
Inconclusive; an answer older than three intervals is an Error. A new gate begins at once; an edit
of one, or its removal, holds from the next step on, except that a gate in Error takes it at once:
how else could a query be mended.
After the promotion they go on until the rollback window ends: limits on the new revision, and
comparisons of the new one with the replaced one, which says for them what stable said before.
These rest, and say so, while the replaced one's workers are not as busy as the new one's: a single
value of a few requests is no yardstick. In a step that takes every user there is nobody left to
compare with: what comparisons said of the steps before it stands. Only the leader asks. Called by
controller/observe in each round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from llmrollouts.api.prometheus_gate import PrometheusGate
from llmrollouts.api.reasons import Reason
from llmrollouts.api.share import ALL
from llmrollouts.api.status import LLMDeploymentStatus, Verdict
from llmrollouts.controller.keys import Key
from llmrollouts.controller.prometheus_asking import Asked, Asking, Stage
from llmrollouts.kube.port import Reader
from llmrollouts.metrics.prometheus import PrometheusPort
from llmrollouts.metrics.prometheus_address import AllowedAddresses
from llmrollouts.metrics.prometheus_query import fill_in
from llmrollouts.metrics.prometheus_verdict import Standing
from llmrollouts.rollout.facts import read_share
from llmrollouts.rollout.observation import Deployment, Gate, Observation

# Of one deployment: its gates must not use up the threads of the others.
_AT_ONCE: Final = 2
_STANDING_STILL: Final = Standing(
    message="it is not asked while no request flows to the canary in this step"
)


class PrometheusGates:
    """``leads``: whether this process decides. ``now``: for the times of a rollback. ``told`` hears
    of each evaluation, for the operator's metrics."""

    def __init__(
        self,
        reader: Reader,
        port: PrometheusPort,
        allowed: AllowedAddresses,
        leads: Callable[[], bool] = lambda: True,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        told: Callable[[Asked], None] | None = None,
    ) -> None:
        self._reader = reader
        self._port = port
        self._allowed = allowed
        self._leads = leads
        self._now = now
        self._told = told
        self._running: dict[Key, _Series] = {}
        # Since when each revision gets requests, of the loop's clock.
        self._flowing: dict[Key, dict[str, float]] = {}

    def judge(self, observation: Observation) -> tuple[Gate, ...]:
        """The verdict of each gate on the running step. Never raises, never waits."""
        deployment = observation.deployment
        key = Key(deployment.namespace, deployment.name)
        stage = _read_stage(deployment)
        if stage is None:
            self.forget(key)
            return ()
        gates = deployment.spec.gates.prometheus
        if not self._leads() or not _flows(deployment, stage):
            self.forget(key)
            return tuple(_make_gate(gate.name, _STANDING_STILL, stage.name) for gate in gates)
        rest = _rest_of_comparisons(deployment)
        self._note_flow(key, stage, compared=rest is None)
        resting = {gate.name for gate in gates if rest is not None and gate.compare is not None}
        series = self._running.get(key)
        if series is None or series.stage != stage:
            answered_since = series.answered_since if series is not None else {}
            self._end_series(key)
            if not gates:
                return ()
            series = self._running[key] = _Series(stage, answered_since)
        elif rest is not None:
            series.rest()
        self._follow_edit(
            key, deployment, series, tuple(gate for gate in gates if gate.name not in resting)
        )
        standings = {name: asking.judge() for name, asking in series.asking.items()}
        if rest is not None:
            standings |= dict.fromkeys(resting, rest)
        return tuple(_make_gate(name, said, stage.name) for name, said in standings.items())

    def forget(self, key: Key) -> None:
        """The deployment is gone, or has nothing to judge."""
        self._flowing.pop(key, None)
        self._end_series(key)

    def _end_series(self, key: Key) -> None:
        series = self._running.pop(key, None)
        if series is not None:
            series.stop()

    def _note_flow(self, key: Key, stage: Stage, *, compared: bool) -> None:
        """A revision that got requests in the round before goes on to, whatever it is called."""
        now, before = asyncio.get_running_loop().time(), self._flowing.get(key, {})
        flowing = (stage.canary, stage.stable if compared else "")
        self._flowing[key] = {name: before.get(name, now) for name in flowing if name}

    def stop(self) -> None:
        """Nothing is asked any more."""
        for key in tuple(self._running):
            self.forget(key)

    def _follow_edit(
        self, key: Key, deployment: Deployment, series: _Series, gates: tuple[PrometheusGate, ...]
    ) -> None:
        wanted = {gate.name: gate for gate in gates}
        for name, asking in tuple(series.asking.items()):
            gate = wanted.get(name)
            if asking.gate != gate and asking.judge().verdict == "Error":
                # Whatever it was, an outage has not ended before now.
                series.answered_since[name] = asyncio.get_running_loop().time()
                asking.stop()
                del series.asking[name]
        for name, gate in wanted.items():
            if name not in series.asking:
                series.asking[name] = self._start(key, deployment, series, gate)

    def _start(
        self,
        key: Key,
        deployment: Deployment,
        series: _Series,
        gate: PrometheusGate,
    ) -> Asking:
        def fill(revision: str) -> str:
            return fill_in(
                gate.query,
                revision=revision,
                namespace=deployment.namespace,
                name=deployment.name,
            )

        asking = Asking(
            key,
            gate,
            self._reader,
            self._port,
            series.turn,
            self._now,
            self._told,
            series.answered_since,
        )
        asking.start(self._allowed, series.stage, fill, self._flowing[key])
        return asking


class _Series:
    """The gates of one deployment in one stage. answered_since: as ``Asking`` keeps it up, of this
    stage and the ones before."""

    def __init__(self, stage: Stage, answered_since: dict[str, float]) -> None:
        self.stage = stage
        self.turn = asyncio.Semaphore(_AT_ONCE)
        self.asking: dict[str, Asking] = {}
        self.answered_since = answered_since

    def rest(self) -> None:
        """No gate compares any more."""
        for name, asking in tuple(self.asking.items()):
            if asking.gate.compare is not None:
                asking.stop()
                del self.asking[name]

    def stop(self) -> None:
        for asking in self.asking.values():
            asking.stop()


def _read_stage(deployment: Deployment) -> Stage | None:
    status = deployment.status
    step, stable = status.step, status.stable_revision
    if deployment.deleting or status.attempt is None:
        return None
    name = status.attempt.stage
    if status.canary_revision is not None:
        if step is None:
            return None
        return Stage(status.canary_revision, stable, name, step.started_at)
    if status.warm is None or stable is None or stable != status.attempt.revision:
        return None
    return Stage(stable, status.warm.revision, name, watch=True)


def _flows(deployment: Deployment, stage: Stage) -> bool:
    """Whether the judged revision is meant to get requests now, of users or copied."""
    status = deployment.status
    # The last moment of a promotion: no share is left, and everyone goes the default way.
    by_default = status.promotion is not None and status.promotion.stage == "Clearing"
    shared = read_share(status.share) or read_share(status.shadow_share)
    return stage.watch or by_default or bool(shared)


def _rest_of_comparisons(deployment: Deployment) -> Standing | None:
    """What they say while they are not asked; None: they go on."""
    status = deployment.status
    if status.canary_revision is not None:
        return _rest_in_step(status)
    warm = status.warm
    if warm is None:
        return None
    if not deployment.spec.strategy.match_load:
        return _resting(
            f"it rests after the promotion: without matchLoad {warm.revision} answers too few "
            f"requests to be compared with {status.stable_revision}"
        )
    if not read_share(warm.share):
        return _resting(
            f"it rests: {warm.revision} gets no request now, so there is nothing to compare with"
        )
    return None


def _rest_in_step(status: LLMDeploymentStatus) -> Standing | None:
    step = status.step
    if step is None or status.promotion is not None or read_share(status.share) < ALL:
        return None
    why = f"it rests while every user is on {status.canary_revision}"
    if step.index == 0:
        # No step before it has shown anything.
        return _resting(
            f"{why}: there is nothing to compare with, nor was in a step before; let the first "
            "step take fewer, or use a limit"
        )
    return _resting(f"{why}: what it said of the steps before stands", "Passed")


def _resting(why: str, verdict: Verdict = "Inconclusive") -> Standing:
    return Standing(verdict, Reason.COMPARISON_RESTS, why)


def _make_gate(name: str, standing: Standing, stage: str) -> Gate:
    gate = Gate(
        f"prometheus/{name}", standing.verdict, standing.reason, standing.message, stage=stage
    )
    if standing.decided is None or standing.bad_since is None:
        return gate
    return replace(
        gate,
        first_seen_at=datetime.fromtimestamp(standing.bad_since, UTC),
        detected_at=datetime.fromtimestamp(standing.decided, UTC),
    )
