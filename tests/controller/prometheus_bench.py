"""Gates from Prometheus with everything around them: what a round sees, a Prometheus that answers
as told, Secrets in a fake API server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from llmrollouts.api.spec import LLMDeploymentSpec
from llmrollouts.api.status import AttemptStatus, LLMDeploymentStatus, StepStatus
from llmrollouts.controller.keys import Key
from llmrollouts.controller.prometheus_asking import Asked
from llmrollouts.controller.prometheus_gates import PrometheusGates
from llmrollouts.kube.port import SECRET
from llmrollouts.metrics.prometheus import Question
from llmrollouts.metrics.prometheus_address import AllowedAddresses
from llmrollouts.metrics.prometheus_answer import Unanswered
from llmrollouts.rollout.intent import TrafficObservation
from llmrollouts.rollout.observation import Deployment, Gate, Observation
from tests.fakes.kube import FakeKube

START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
ADDRESS = "https://prom.example"
KEY = Key("prod", "chat")
STAGE = "bbbb/1/0-Canary-5000"
LOOKS_BACK = 'rate(cost{r="{{revision}}"}[2m])'


def make_gate(**given: Any) -> dict[str, Any]:
    return {
        "name": "cost",
        "address": ADDRESS,
        "query": 'cost{r="{{revision}}"}',
        "limit": {"max": "0.25"},
        **given,
    }


def make_status(**given: Any) -> LLMDeploymentStatus:
    return LLMDeploymentStatus(
        **{
            "stable_revision": "aaaa",
            "canary_revision": "bbbb",
            "share": "0.5%",
            "step": StepStatus(index=0, kind="Canary", share="0.5%", started_at=START),
            "attempt": make_attempt(STAGE),
            **given,
        }
    )


def in_next_step(began: datetime) -> LLMDeploymentStatus:
    """A step of 5 %, after that of ``make_status``."""
    step = StepStatus(index=1, kind="Canary", share="5%", started_at=began)
    return make_status(step=step, share="5%", attempt=make_attempt("bbbb/1/1-Canary-50000"))


def make_attempt(stage: str) -> AttemptStatus:
    return AttemptStatus(
        revision="bbbb", number=1, started_at=START, error_budget=0.01, stage=stage
    )


def observe(*gates: dict[str, Any], status: LLMDeploymentStatus | None = None) -> Observation:
    spec = LLMDeploymentSpec.model_validate(
        {
            "replicas": 2,
            "revision": {"model": {"uri": "file:///models/v1"}},
            "gates": {"prometheus": list(gates)},
        }
    )
    deployment = Deployment(KEY.namespace, KEY.name, "uid", 1, spec, status or make_status())
    return Observation(deployment, "{}", {}, None, (), (), (), frozenset(), TrafficObservation())


Answer = float | Unanswered | Exception


class FakePrometheus:
    """Answers in order, the last one for ever; by revision where a question has two queries."""

    def __init__(self) -> None:
        self.answers: list[Answer | tuple[float, float]] = [0.2]
        self.asked: list[tuple[float, Question]] = []
        self.seconds = 0.0
        self.together = 0
        self.most_together = 0

    async def ask(self, question: Question) -> tuple[float, ...]:
        self.asked.append((asyncio.get_running_loop().time(), question))
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.together -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, tuple) else (answer,)

    def times(self) -> list[float]:
        return [round(at) for at, _ in self.asked]


class Bench:
    """A source of gates with everything around it. ``leads`` may be changed."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        self.prometheus = FakePrometheus()
        self.leads = True
        self.allowed = AllowedAddresses([ADDRESS])
        self.asked: list[Asked] = []
        self.gates = self.make()

    def make(self) -> PrometheusGates:
        return PrometheusGates(
            self.kube,
            self.prometheus,
            self.allowed,
            leads=lambda: self.leads,
            now=lambda: START + timedelta(seconds=asyncio.get_running_loop().time()),
            told=self.asked.append,
        )

    def judge(self, *gates: dict[str, Any], status: LLMDeploymentStatus | None = None) -> Gate:
        found = self.gates.judge(observe(*(gates or (make_gate(),)), status=status))
        assert len(found) == 1
        return found[0]

    def put_secret(self, name: str, **data: str) -> None:
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
        self.kube.put(
            SECRET,
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"namespace": KEY.namespace, "name": name},
                "data": encoded,
            },
        )


async def open_bench() -> AsyncIterator[Bench]:
    """The body of a fixture: a bench whose gates are stopped after the test."""
    made = Bench()
    yield made
    made.gates.stop()
