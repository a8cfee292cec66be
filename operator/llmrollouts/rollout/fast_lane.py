"""What a person's rollback lowers before the rest of the world has been read.

A round reads five lists before it decides; a share may fall without any of them. This says, from
the LLMDeployment and what the proxies were told, whether the next plan will obey a rollback that
stands on it, and what may therefore be lowered now. Whatever it lowers the plan lowers too
(tests/rollout/test_fast_lane.py); where the plan needs more than this to decide, the answer is
None and the round does all of it. It changes no default, and raises nothing. Called by
controller/fast_lane.
"""

from __future__ import annotations

from dataclasses import replace

from llmrollouts.api.command import parse_command
from llmrollouts.api.share import NONE
from llmrollouts.rollout.commands import is_taken, sends_canary_back
from llmrollouts.rollout.intent import DeploymentTraffic
from llmrollouts.rollout.observation import Deployment


def carries_users(programmed: DeploymentTraffic | None) -> bool:
    """Whether there is any share or mirror that could be lowered."""
    return programmed is not None and any(r.share or r.mirror for r in programmed.revisions)


def lowers_at_once(
    deployment: Deployment, programmed: DeploymentTraffic | None, epoch: int
) -> DeploymentTraffic | None:
    """``programmed`` with every share and mirror 0 when a rollback is to be obeyed, else None.

    deployment: its spec must be one that can be used. epoch: this leader's term; a status of a
    later one is another leader's to follow.
    """
    if programmed is None or not carries_users(programmed):
        return None
    status = deployment.status
    if deployment.deleting or (status.epoch is not None and status.epoch > epoch):
        return None
    if deployment.command is None or deployment.command_applied or is_taken(deployment):
        return None
    try:
        command = parse_command(deployment.command)
    except ValueError:
        return None
    if command.verb != "rollback" or not sends_canary_back(status, command.revision):
        return None
    # All of them: nothing but the canary of the status ever has a share.
    lowered = tuple(replace(r, share=NONE, mirror=NONE) for r in programmed.revisions)
    return replace(programmed, revisions=lowered)
