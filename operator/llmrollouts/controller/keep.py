"""The traffic that a deployment's status has committed, whatever the next plan may say.

A new leader programs it before it decides anything, a standby keeps it ready, and a deployment
whose plan cannot be made keeps it (with the workers that are ready now, and no share above what
the proxies have). It raises no share that was not committed. Called by takeover and reconcile.
"""

from __future__ import annotations

from datetime import datetime

from llmrollouts.api.settings import OperatorSettings
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.intent import DeploymentTraffic, lowered
from llmrollouts.rollout.observation import Observation
from llmrollouts.rollout.recall import recall
from llmrollouts.rollout.routes import route
from llmrollouts.traffic.port import TrafficPort


def committed_traffic(
    seen: Observation, settings: OperatorSettings, now: datetime, epoch: int
) -> DeploymentTraffic:
    """What the status says, with the workers that are ready now."""
    facts = Facts(seen, settings, now, epoch)
    return route(recall(seen.deployment.status, facts).status, facts)


def keep_traffic(
    traffic: TrafficPort, seen: Observation, settings: OperatorSettings, now: datetime, epoch: int
) -> None:
    """Follow the workers; change nothing else."""
    committed = committed_traffic(seen, settings, now, epoch)
    traffic.program(lowered(seen.traffic.programmed, committed))
