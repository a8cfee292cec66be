"""Where things are: folders below the cache, and the addresses of the single node.

It decides names and paths only; it creates nothing. Everything else in this package asks it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

NAMESPACE = "llmr-node"  # the network namespace that holds the node
HOST_LINK = "llmr0"  # the host's end of the veth pair; the node's end is eth0
HOST_ADDRESS = "10.250.0.1"
NODE_ADDRESS = "10.250.0.2"
LINK_PREFIX = 30
POD_RANGE = "10.244.0.0/16"
NODE_POD_RANGE = "10.244.0.0/20"  # 4,094 addresses: a /24 would cap the node at 254 pods
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
DNS_ADDRESS = "10.96.0.10"
NODE_NAME = "node0"
KIND_NAME = "llm-rollouts"
CGROUP = "llmr-node"  # every pod's cgroup lies below it, so that `down` can find them all


@dataclass(frozen=True)
class Places:
    """Folders of one cache. Two caches are two clusters; only one of them can run at a time."""

    cache: Path

    @property
    def bin(self) -> Path:
        return self.cache / "bin"

    @property
    def cluster(self) -> Path:
        return self.cache / "cluster"

    @property
    def pki(self) -> Path:
        return self.cluster / "pki"

    @property
    def run(self) -> Path:
        return self.cluster / "run"

    @property
    def logs(self) -> Path:
        return self.cluster / "log"

    @property
    def containerd_root(self) -> Path:
        """Images live here, so `reset` keeps it."""
        return self.cache / "containerd"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def kubeconfig(self) -> Path:
        return self.cluster / "admin.kubeconfig"

    @property
    def image_store(self) -> Path:
        """buildah's own storage; nothing outside the cache is touched."""
        return self.cache / "images"


def find_places() -> Places:
    """The cache folder: $LLMR_CACHE, else llm-rollouts below $XDG_CACHE_HOME, else ~/.cache."""
    explicit = os.environ.get("LLMR_CACHE")
    if explicit:
        return Places(Path(explicit).expanduser().resolve())
    parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Places((Path(parent).expanduser() / "llm-rollouts").resolve())
