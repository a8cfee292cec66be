"""What must hold of every plan and every deletion, whatever happens; the world asks each round."""

from __future__ import annotations

from llmrollouts.api.share import ALL, Share
from llmrollouts.rollout.effects import ApplyWorkers, DeleteWorkers, Plan
from llmrollouts.rollout.intent import DeploymentTraffic


def check_plan(made: Plan) -> None:
    """Properties of every single plan."""
    if made.traffic is None:
        return
    status = made.status
    warm = status.warm.revision if status.warm is not None else None
    for told in made.traffic.revisions:
        if status.canary_revision is None and told.revision == warm:
            assert told.share <= Share.parse("1%"), "the control has more than its share"
        elif told.revision != status.canary_revision:
            assert not told.share, f"{told.revision} is no canary and has {told.share}"
            assert not told.mirror
    share = made.traffic.share_of(status.canary_revision or "")
    if share and status.promotion is None:
        assert status.step is not None
        assert status.step.kind == "Canary"
        assert share <= Share.parse(status.step.share), "the share exceeds its step"
    if status.lapse is not None and status.lapse.active:
        assert not share
    assert sum(t.share.ppm + t.mirror.ppm for t in made.traffic.revisions) <= ALL.ppm
    applied = {e.revision for e in made.effects if isinstance(e, ApplyWorkers)}
    for effect in made.effects:
        if isinstance(effect, DeleteWorkers):
            assert effect.revision not in applied
            assert made.traffic.default != effect.revision
            assert all(t.revision != effect.revision for t in made.traffic.revisions)


def check_deletion(
    revision: str, actual: DeploymentTraffic | None, programmed: DeploymentTraffic | None
) -> None:
    """Workers go only when neither the proxies nor the program send anybody there."""
    assert actual is not None, "workers were deleted before the proxies said anything"
    for told in (actual, programmed):
        assert told is not None
        assert told.default != revision, "workers were deleted that answer users"
        assert all(each.revision != revision for each in told.revisions)
