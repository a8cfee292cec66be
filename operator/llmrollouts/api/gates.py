"""Which gates judge a new revision while it takes over."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmrollouts.api.model import ApiModel
from llmrollouts.api.prometheus_gate import MAX_GATES, PrometheusGate
from llmrollouts.api.rules import NAMED_LIST


class LatencyGate(ApiModel):
    """Compares latencies and errors of the canary with stable's, every second."""

    mode: Literal["Enforce", "Observe", "Off"] = "Enforce"
    """Enforce: a worse canary is rolled back, and only a revision that was shown to be no worse is
    promoted. Observe: measured and reported, never decides. Off: not measured. A change holds at
    once."""
    placebo: bool = False
    """Also judge each stable worker as a pretended canary and report how often the gate fires, to
    learn whether it can be trusted here."""


class Gates(ApiModel):
    """What judges a new revision while it takes over."""

    latency: LatencyGate = Field(default_factory=LatencyGate)
    """Compares latencies and errors of the canary with stable's, every second."""
    prometheus: Annotated[list[PrometheusGate], Field(max_length=MAX_GATES), NAMED_LIST] = Field(
        default_factory=list
    )
    """Gates of your own, each a PromQL expression that the new revision must satisfy."""
