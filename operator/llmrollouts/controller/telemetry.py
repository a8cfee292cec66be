"""The operator's own metrics: what it does, how long it takes, how old its picture is.

Process-wide series are ordinary counters, gauges and histograms. The series of one LLMDeployment
are made at scrape time from the last round's facts, so that they vanish with the object at once
(R12) and a thousand idle deployments cost a few kilobytes. It decides nothing. Fed by reconcile,
act, the gates, the API client and the watch layer; read by controller/health.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmrollouts.api.share import Share
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.controller.keys import Key
from llmrollouts.controller.prometheus_asking import Asked
from llmrollouts.metrics.record import PlaceboResult
from llmrollouts.rollout.gates import PROMETHEUS_PREFIX
from llmrollouts.rollout.observation import Gate, Observation

_PREFIX: Final = "llmrollouts"
_ROUND_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ASK_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ROLLBACK_BOUNDS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0)


@dataclass(slots=True)
class DeploymentFacts:
    """What is shown of one LLMDeployment. Shares are fractions from 0 to 1."""

    phase: str = ""
    stable: str = ""
    canary: str = ""
    step: int = 0
    asked: float = 0.0
    shadow_asked: float = 0.0
    measured: float | None = None
    shadow_measured: float | None = None
    ready_workers: int = 0
    lapsed: bool = False
    lapses: dict[str, int] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()


class _Deployments(Collector):
    """The series of all deployments, made at scrape time."""

    def __init__(self) -> None:
        self.facts: dict[Key, DeploymentFacts] = {}
        self.placebo: dict[Key, PlaceboResult] = {}
        # By gate: the number that it was last judged by.
        self.answers: dict[Key, dict[str, float]] = {}

    def collect(self) -> Iterator[Metric]:
        where = ["namespace", "name"]

        def gauge(name: str, text: str, more: tuple[str, ...] = ()) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=[*where, *more])

        info = gauge("deployment_info", "1 for each LLMDeployment.", ("phase", "stable", "canary"))
        step = gauge("deployment_step", "The running step, from 1; 0: none.")
        asked = gauge("canary_share_asked", "Committed share of user requests (0 to 1).")
        measured = gauge("canary_share_measured", "Share of the last ten seconds at the gateways.")
        shadow = gauge("shadow_share_asked", "Committed share of mirrored requests (0 to 1).")
        mirrored = gauge("shadow_share_measured", "Mirrored share of the last ten seconds.")
        ready = gauge("ready_workers", "Ready workers of all revisions.")
        lapsed = gauge("share_lapsed", "1 while the share is 0 without a verdict.")
        lapses = CounterMetricFamily(
            f"{_PREFIX}_lapses", "Lapses of the running rollout.", labels=[*where, "cause"]
        )
        for key, facts in self.facts.items():
            one = [key.namespace, key.name]
            info.add_metric([*one, facts.phase, facts.stable, facts.canary], 1)
            step.add_metric(one, facts.step)
            asked.add_metric(one, facts.asked)
            shadow.add_metric(one, facts.shadow_asked)
            if facts.measured is not None:
                measured.add_metric(one, facts.measured)
            if facts.shadow_measured is not None:
                mirrored.add_metric(one, facts.shadow_measured)
            ready.add_metric(one, facts.ready_workers)
            lapsed.add_metric(one, float(facts.lapsed))
            for cause, count in facts.lapses.items():
                lapses.add_metric([*one, cause], count)
        yield from (info, step, asked, measured, shadow, mirrored, ready, lapsed, lapses)
        yield from self._collect_gates()
        yield from self._collect_placebo()
        answer = gauge(
            "gate_answer",
            "What a gate from Prometheus was last judged by: the answer, or its ratio to stable's.",
            ("gate",),
        )
        for key, answers in self.answers.items():
            for name, value in answers.items():
                answer.add_metric([key.namespace, key.name, name], value)
        yield answer

    def _collect_gates(self) -> Iterator[Metric]:
        """The evidence behind the verdicts (R23)."""

        def gauge(name: str, text: str, *more: str) -> GaugeMetricFamily:
            labels = ["namespace", "name", "gate", *more]
            return GaugeMetricFamily(f"{_PREFIX}_gate_{name}", text, labels=labels)

        verdict = gauge("verdict", "1 for what the gate says now.", "verdict", "reason")
        proven = gauge("proven", "1 once the revision was shown to be no worse.")
        blind = gauge("blind", "1 while the step finds no slower revision at its real rate.")
        samples = gauge("samples", "Requests compared in this stage.", "arm")
        evidence = gauge("evidence", "Evidence of harm; it decides at gate_needed.", "metric")
        needed = gauge("needed", "The evidence that decides.", "metric")
        ratio = gauge("ratio", "Canary by stable at a quantile.", "metric", "quantile")
        for key, facts in self.facts.items():
            for gate in facts.gates:
                one = [key.namespace, key.name, gate.name]
                verdict.add_metric([*one, gate.verdict, gate.reason], 1)
                if gate.proof != "NotNeeded":
                    proven.add_metric(one, float(gate.proof == "Proven"))
                if gate.power is not None:
                    blind.add_metric(one, float(gate.power.blind))
                if gate.numbers is None:
                    continue
                samples.add_metric([*one, "canary"], gate.numbers.canary_requests)
                samples.add_metric([*one, "control"], gate.numbers.control_requests)
                for found in gate.numbers.metrics:
                    if found.evidence is not None and found.needed is not None:
                        evidence.add_metric([*one, found.name], found.evidence)
                        needed.add_metric([*one, found.name], found.needed)
                    for quantile in ("p50", "p95", "p99"):
                        value = getattr(found, quantile)
                        if value is not None:
                            ratio.add_metric([*one, found.name, quantile], value)
        yield from (verdict, proven, blind, samples, evidence, needed, ratio)

    def _collect_placebo(self) -> Iterator[Metric]:
        where = ["namespace", "name"]
        stages = GaugeMetricFamily(
            f"{_PREFIX}_placebo_stages",
            "Stages of single stable workers that were judged as if they were canaries.",
            labels=where,
        )
        fired = GaugeMetricFamily(
            f"{_PREFIX}_placebo_firings", "How many of them the gate would fail.", labels=where
        )
        for key, result in self.placebo.items():
            stages.add_metric([key.namespace, key.name], result.stages)
            fired.add_metric([key.namespace, key.name], result.firings)
        yield from (stages, fired)


class Telemetry:
    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        self._deployments = _Deployments()
        self.registry.register(self._deployments)
        if self.registry is not REGISTRY:  # the library's own registry has them already
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
        self._rounds = self._counter("rounds", "Rounds of the loop by their result.", "result")
        self._round_seconds = Histogram(
            f"{_PREFIX}_round_seconds",
            "Duration of a round.",
            registry=self.registry,
            buckets=_ROUND_BOUNDS,
        )
        self._requests = self._counter(
            "api_requests", "Requests to the API server.", "verb", "kind", "code"
        )
        self._request_seconds = Histogram(
            f"{_PREFIX}_api_request_seconds",
            "Duration of requests to the API server.",
            registry=self.registry,
            buckets=_ROUND_BOUNDS,
        )
        self._transitions = self._counter("transitions", "Transitions told as Events.", "reason")
        self._lost_events = self._counter("lost_events", "Events that could not be written.")
        self._bugs = self._counter("bugs", "Rounds that ended in an unexpected error.")
        self._rollback_seconds = Histogram(
            f"{_PREFIX}_rollback_seconds",
            "From the request (or the decision) to share 0 everywhere.",
            registry=self.registry,
            buckets=_ROLLBACK_BOUNDS,
        )
        self._asks = self._counter(
            "prometheus_asks", "Questions of gates from Prometheus by their result.", "result"
        )
        self._ask_seconds = Histogram(
            f"{_PREFIX}_prometheus_ask_seconds",
            "Duration of a question of a gate from Prometheus, with Secrets and both revisions.",
            registry=self.registry,
            buckets=_ASK_BOUNDS,
        )
        self.loop_lag = Gauge(
            f"{_PREFIX}_loop_lag_seconds",
            "How late the event loop last ran a timer.",
            registry=self.registry,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}_total", text, labels, registry=self.registry)

    def show(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is scraped."""
        Gauge(f"{_PREFIX}_{name}", text, registry=self.registry).set_function(read)

    def show_each(
        self, name: str, text: str, label: str, read: Callable[[], dict[str, float]]
    ) -> None:
        """A gauge of several values, read when it is scraped."""
        self.registry.register(_Each(f"{_PREFIX}_{name}", text, label, read))

    def count_round(self, result: str, seconds: float) -> None:
        self._rounds.labels(result).inc()
        self._round_seconds.observe(seconds)

    def count_bug(self) -> None:
        self._bugs.inc()

    def count_request(self, verb: str, kind: str, code: int, seconds: float) -> None:
        self._requests.labels(verb, kind, str(code)).inc()
        self._request_seconds.observe(seconds)

    def count_transition(self, reason: str) -> None:
        self._transitions.labels(reason).inc()

    def count_lost_event(self) -> None:
        self._lost_events.inc()

    def time_rollback(self, seconds: float) -> None:
        self._rollback_seconds.observe(seconds)

    def describe(self, key: Key, seen: Observation, status: LLMDeploymentStatus) -> None:
        """The series of ``key`` from now on."""
        canary = status.canary_revision
        traffic = seen.traffic
        self._deployments.facts[key] = DeploymentFacts(
            phase=status.phase or "",
            stable=status.stable_revision or "",
            canary=canary or "",
            step=status.step.index + 1 if status.step is not None else 0,
            asked=_fraction(status.share),
            shadow_asked=_fraction(status.shadow_share),
            measured=traffic.recent_live.get(canary) if canary else None,
            shadow_measured=traffic.recent_mirrored.get(canary) if canary else None,
            ready_workers=sum(1 for pod in seen.pods if pod.ready),
            lapsed=status.lapse is not None and status.lapse.active,
            lapses=dict(status.lapse.counts) if status.lapse is not None else {},
            gates=seen.gates,
        )
        if not seen.gates:
            self._deployments.placebo.pop(key, None)
        # A gate that is removed, and all of them after the rollout, take their series along.
        said = {gate.name for gate in seen.gates}
        answers = self._deployments.answers.pop(key, {})
        if kept := {name: value for name, value in answers.items() if name in said}:
            self._deployments.answers[key] = kept

    def note_placebo(self, key: Key, result: PlaceboResult) -> None:
        """How often the test fired on stable workers of ``key``."""
        self._deployments.placebo[key] = result

    def count_asked(self, asked: Asked) -> None:
        """One question of a gate from Prometheus. Without a number it has no answer any more."""
        self._asks.labels(asked.result).inc()
        self._ask_seconds.observe(asked.seconds)
        answers = self._deployments.answers.setdefault(asked.key, {})
        name = f"{PROMETHEUS_PREFIX}{asked.gate}"
        if asked.value is None:
            answers.pop(name, None)
        else:
            answers[name] = asked.value

    def forget(self, key: Key) -> None:
        self._deployments.facts.pop(key, None)
        self._deployments.answers.pop(key, None)
        self._deployments.placebo.pop(key, None)

    def known(self) -> frozenset[Key]:
        return frozenset(self._deployments.facts)


class _Each(Collector):
    def __init__(
        self, name: str, text: str, label: str, read: Callable[[], dict[str, float]]
    ) -> None:
        self._name, self._text, self._label, self._read = name, text, label, read

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=[self._label])
        for value, number in self._read().items():
            family.add_metric([value], number)
        yield family


def _fraction(text: str | None) -> float:
    return Share.parse(text).fraction if text else 0.0
