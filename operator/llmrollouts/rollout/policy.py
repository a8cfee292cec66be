"""What the spec asks of the canary gate, in the numbers of analysis/.

Decides nothing. Called by the gate engine when a stage is frozen, and by `kubectl llm replay` and
`plan`, so that all of them judge by the same numbers.
"""

from __future__ import annotations

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.policy import Policy
from llmrollouts.api.duration import parse_duration
from llmrollouts.api.percent import parse_percent
from llmrollouts.api.spec import LLMDeploymentSpec, Objectives, Strategy


def make_policy(spec: LLMDeploymentSpec) -> Policy:
    """The policy of a spec. Raises ValueError with a sentence for people."""
    return combine_policy(spec.objectives, spec.strategy)


def combine_policy(objectives: Objectives, strategy: Strategy) -> Policy:
    """The policy of the two parts of a spec that make one. Raises ValueError."""
    texts = {
        Metric.TTFT: objectives.ttft_p99,
        Metric.TPOT: objectives.tpot_p99,
        Metric.DURATION: objectives.e2e_p99,
    }
    margin, errors = objectives.margin, objectives.error_rate
    return Policy(
        margin=None if margin is None else 1 + parse_percent(margin),
        promotion_margin=1 + parse_percent(objectives.promotion_margin),
        error_budget=parse_percent(strategy.error_budget),
        # To the microsecond, as it is written: 350ms is 0.35 and not a hair beside it.
        limits={
            metric: round(parse_duration(text), 6)
            for metric, text in texts.items()
            if text is not None
        },
        error_limit=None if errors is None else parse_percent(errors),
    )
