"""How the operator's process ends: for good, or to begin anew as a standby.

A process that has lost its Lease must not go on with what it knows. It is replaced by a fresh one
in the same container (exec): nothing in memory survives, and the kubelet, which lets a container
that ends again and again wait for up to five minutes, has nothing to restart. On a node that is
starved for a while both replicas would otherwise sit in that wait when someone calls for a
rollback. It decides nothing about when. Called by controller/main.
"""

from __future__ import annotations

import os
import sys
from enum import Enum
from typing import Final, NoReturn

_HIGHEST_DESCRIPTOR: Final = 65536  # of what this process may have open; more was never seen


class Ending(Enum):
    """STOPPED: asked to, by a signal. FAILED: something is broken that a restart may mend, and the
    kubelet shall see it. DEPOSED: the Lease is lost, all else is well."""

    STOPPED = "stopped"
    FAILED = "failed"
    DEPOSED = "deposed"


def leave(ending: Ending) -> NoReturn:
    """End at once: what is left are threads and tasks of the watches, and the next leader waits."""
    if ending is Ending.DEPOSED:
        # Libraries may have opened some without the mark that closes them at an exec.
        os.closerange(sys.stderr.fileno() + 1, _HIGHEST_DESCRIPTOR)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the command of this very process
    os._exit(0 if ending is Ending.STOPPED else 1)
