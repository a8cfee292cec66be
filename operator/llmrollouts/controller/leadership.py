"""What the rounds may ask of the election: may I write now, and as which epoch.

It decides nothing: the elector does. A status with a higher epoch than ours was written by a later
leader (then we are deposed), or in a time that the Lease has forgotten (it was deleted, or the
status was edited): the elector can tell the two apart, because only the first has a holder.
"""

from __future__ import annotations

import asyncio
from typing import Final

from llmrollouts.controller.errors import NotLeading
from llmrollouts.kube.elector import HIGHEST_EPOCH, Elector, LeadershipLost


class ElectedLeadership:
    def __init__(self, elector: Elector) -> None:
        self._elector: Final = elector
        self._raising = asyncio.Lock()
        self._taken_over = False

    @property
    def epoch(self) -> int:
        return self._elector.epoch

    def require(self) -> None:
        """Raises NotLeading unless the Lease is certainly still ours at this moment."""
        if not self._elector.is_leader():
            raise NotLeading("the lease is not ours (any more)")

    def take_over(self) -> None:
        """Every deployment's committed traffic is known: from now on the gateways may hear us."""
        self._taken_over = True

    def may_push(self) -> bool:
        """Whether this replica may tell the gateways shares: not before it knows all of them, or
        the take-over itself would set a running canary to 0."""
        return self._taken_over and self._elector.is_leader()

    def lease_is_fresh(self) -> bool:
        """Whether some replica leads, as far as this one knows."""
        return self._elector.lease_is_fresh()

    async def outrank(self, epoch: int) -> None:
        """Have a higher epoch than one found in a status. Raises NotLeading when a later leader
        is the reason for it; an epoch that no leader can have is nonsense and outranks nobody."""
        if epoch >= HIGHEST_EPOCH:
            return
        async with self._raising:
            if epoch <= self._elector.epoch:
                return
            try:
                await self._elector.outrank(epoch)
            except LeadershipLost as error:
                raise NotLeading(str(error)) from error
