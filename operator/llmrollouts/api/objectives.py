"""What a user promises before anything runs: hard limits, and how much slower a canary may be.

The limits are judged together with the comparison (a limit that stable breaks as well freezes the
rollout and blames nobody). rollout/policy.py turns these texts into numbers. Decides nothing.
"""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, model_validator

from llmrollouts.api.duration import DURATION_PATTERN, parse_duration
from llmrollouts.api.model import ApiModel
from llmrollouts.api.percent import PERCENT_PATTERN, parse_percent
from llmrollouts.api.rules import Rule, rules
from llmrollouts.api.texts import ErrorRateText, LatencyText, MarginText

# What holds where `margin` is not given and the canary has a single worker (analysis/policy.py
# has the number; a test compares).
WIDEST_DEFAULT_MARGIN: Final = "10%"

_MARGINS_CROSS = (
    "promotionMargin lies above margin (10% where margin is not given): what is too slow to keep "
    "must not be promoted; raise promotionMargin or lower margin"
)
_LIMITS_CROSS = (
    "ttftP99 is at most e2eP99, because no answer ends before it begins: raise e2eP99 or lower "
    "ttftP99"
)


def _is_percent(field: str) -> str:
    return f"self.{field}.matches(r'{PERCENT_PATTERN}')"


def _number(field: str) -> str:
    return f"double(self.{field}.replace('%', ''))"


_MARGINS_RULE = (
    f"!has(self.promotionMargin) || !{_is_percent('promotionMargin')} || (has(self.margin) "
    f"? (!{_is_percent('margin')} || {_number('margin')} < {_number('promotionMargin')}) "
    f": {_number('promotionMargin')} > 10.0)"
)
_LIMITS_RULE = (
    "!has(self.ttftP99) || !has(self.e2eP99) || "
    f"!self.ttftP99.matches(r'{DURATION_PATTERN}') || !self.e2eP99.matches(r'{DURATION_PATTERN}') "
    "|| duration(self.ttftP99) <= duration(self.e2eP99)"
)


class Objectives(ApiModel):
    """What every revision must keep, declared before anything runs. Edits hold from the next step
    on."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(_MARGINS_RULE, _MARGINS_CROSS), Rule(_LIMITS_RULE, _LIMITS_CROSS)
        )
    )

    ttft_p99: LatencyText | None = None
    """At most 1% of streamed requests wait longer for their first token, such as 350ms."""
    tpot_p99: LatencyText | None = None
    """At most 1% of requests take longer for each further token, such as 40ms."""
    # The generator of names would write e2EP99.
    e2e_p99: Annotated[LatencyText | None, Field(alias="e2eP99")] = None
    """At most 1% of requests take longer from arrival to their end, such as 30s."""
    error_rate: ErrorRateText | None = None
    """The part of the requests that may fail, such as 0.2%."""
    margin: MarginText | None = None
    """How much slower than stable a canary may be at any quantile before it is rolled back.
    Default: 10% for a canary of one worker, 5% for more."""
    promotion_margin: MarginText = "25%"
    """What must be shown before a share above 5% and before the promotion: that the canary is at
    most this much slower than stable at p50, p95 and p99."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        margin = self.margin if self.margin is not None else WIDEST_DEFAULT_MARGIN
        if parse_percent(margin) >= parse_percent(self.promotion_margin):
            raise ValueError(_MARGINS_CROSS)
        first, whole = self.ttft_p99, self.e2e_p99
        crosses = (
            first is not None
            and whole is not None
            and parse_duration(first) > parse_duration(whole)
        )
        if crosses:
            raise ValueError(_LIMITS_CROSS)
        return self
