"""The texts of a spec as the numbers of the canary gate."""

from __future__ import annotations

import pytest

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.policy import LONGEST_LAG, MARGIN_OF_ONE, Policy
from llmrollouts.api.duration import parse_duration
from llmrollouts.api.objectives import WIDEST_DEFAULT_MARGIN
from llmrollouts.api.percent import parse_percent
from llmrollouts.api.spec import LLMDeploymentSpec
from llmrollouts.api.texts import LONGEST_LATENCY
from llmrollouts.rollout.policy import make_policy
from tests.rollout.specs import make_spec


def with_objectives(**objectives: str) -> LLMDeploymentSpec:
    given = make_spec().model_dump(by_alias=True, exclude_none=True)
    return LLMDeploymentSpec.model_validate({**given, "objectives": objectives})


def test_without_objectives_the_policy_is_the_default_one() -> None:
    assert make_policy(make_spec()) == Policy()


def test_every_objective_reaches_the_policy() -> None:
    spec = with_objectives(
        ttftP99="350ms", tpotP99="40ms", e2eP99="30s", errorRate="0.2%", margin="5%",
        promotionMargin="20%",
    )  # fmt: skip
    assert make_policy(spec) == Policy(
        margin=1.05,
        promotion_margin=1.2,
        limits={Metric.TTFT: 0.35, Metric.TPOT: 0.04, Metric.DURATION: 30.0},
        error_limit=0.002,
    )


def test_the_error_budget_of_the_strategy_is_the_policys() -> None:
    assert make_policy(make_spec(error_budget="0.5%")).error_budget == pytest.approx(0.005)


def test_the_api_refuses_what_the_policy_would_refuse() -> None:
    """The API's own copies of two numbers of analysis/."""
    assert 1 + parse_percent(WIDEST_DEFAULT_MARGIN) == pytest.approx(MARGIN_OF_ONE)
    assert parse_duration(LONGEST_LATENCY) == LONGEST_LAG
