"""A replica as a process of its own, for tests that freeze it: ``python leader_process.py``.

Arguments: kubeconfig, namespace, identity. Prints ``lead <epoch>`` once, then ``push <seconds>``
(the monotonic clock) twenty times a second as long as it may, and ``lost`` before it exits.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from llmrollouts.kube.client import KubeClient
from llmrollouts.kube.connection import connect
from llmrollouts.kube.elector import Elector, LeadershipLost, monotonic


async def run(kubeconfig: Path, namespace: str, identity: str) -> int:
    async with KubeClient(await connect(kubeconfig), connections=2) as client:
        elector = Elector(
            client,
            namespace,
            "llm-rollouts",
            identity,
            on_started=lambda epoch: print("lead", epoch, flush=True),
        )

        async def push() -> None:
            while True:
                if elector.is_leader():
                    print("push", monotonic(), flush=True)
                await asyncio.sleep(0.05)

        pushing = asyncio.create_task(push())
        try:
            await elector.run()
        except LeadershipLost:
            print("lost", monotonic(), flush=True)
            return 1
        finally:
            pushing.cancel()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(run(Path(sys.argv[1]), sys.argv[2], sys.argv[3])))
