"""The control of the watch: 1 % of the users stay with the replaced revision while it is warm.

A promoted revision can only be judged beside another one. So its predecessor keeps answering a
small share, and copies fill its workers up until they are as busy as the new ones, as in a canary
step with the roles turned. The share needs fresh evidence to rise, as any share; it ends with the
window, with the gates that compare, and whenever the gateways fall silent: users stay on the new
revision then. Called by promotion.py in each round of the watch.
"""

from __future__ import annotations

from typing import Final

from llmrollouts.api.share import NONE, WHOLE, Share
from llmrollouts.api.status import LLMDeploymentStatus, WarmStatus
from llmrollouts.rollout.capacity import carried_share
from llmrollouts.rollout.draft import Draft
from llmrollouts.rollout.facts import STALE_SECONDS, Facts, read_share

CONTROL_SHARE: Final = Share.parse("1%")


def hold_control(draft: Draft, facts: Facts) -> Draft:
    """The share and the mirror that the warm revision may have from this round on."""
    warm = draft.status.warm
    if warm is None:
        return draft
    share = _granted_share(warm, draft.status, facts)
    mirror = _granted_mirror(warm, share, draft.status, facts)
    if share == read_share(warm.share) and mirror == read_share(warm.shadow_share):
        return draft
    return draft.put(
        warm=warm.model_copy(update={"share": str(share), "shadow_share": str(mirror)})
    )


def wants_control(status: LLMDeploymentStatus, facts: Facts) -> bool:
    """Whether a share of the warm revision may come back in a later round."""
    warm = status.warm
    return (
        warm is not None
        and status.canary_revision is None
        and _is_compared(facts)
        # A route of the user's own has no leases: nothing would end a forgotten share there.
        and facts.spec.traffic.provider == "Gateway"
        and facts.now < warm.until
    )


def _is_compared(facts: Facts) -> bool:
    """Whether a gate looks at the control: that of latency, or one from Prometheus, which compares
    single values and so needs workers that are equally busy."""
    gates = facts.spec.gates
    ratios = any(gate.compare is not None for gate in gates.prometheus)
    return gates.latency.mode != "Off" or (ratios and facts.spec.strategy.match_load)


def _granted_share(warm: WarmStatus, status: LLMDeploymentStatus, facts: Facts) -> Share:
    ready, age = facts.ready(warm.revision), facts.traffic.report_age
    if not wants_control(status, facts) or ready == 0:
        return NONE
    now = read_share(warm.share)
    if age is None:
        # A new process: its first reports are on their way, and its leases guard the share.
        return now
    if age > STALE_SECONDS:
        return NONE
    wanted = min(CONTROL_SHARE, carried_share(ready, facts.replicas))
    if wanted <= now:
        return wanted
    programmed = facts.traffic.programmed
    may_rise = (
        facts.fresh
        and facts.traffic.settled
        and programmed is not None
        and programmed.default == status.stable_revision
        and facts.programmed_endpoints(warm.revision) > 0
    )
    return wanted if may_rise else now


def _granted_mirror(
    warm: WarmStatus, share: Share, status: LLMDeploymentStatus, facts: Facts
) -> Share:
    """Copies beside ``share``, so that each warm worker has the rate of a stable one."""
    stable = facts.ready(status.stable_revision)
    if not share or not stable or not facts.spec.strategy.match_load:
        return NONE
    total = facts.ready(warm.revision) * (WHOLE - share.ppm) // stable
    return Share(min(max(0, total - share.ppm), WHOLE - share.ppm))
