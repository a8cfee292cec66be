"""Making it true that a cluster holds the images wanted, with as little work as possible.

It decides what is built, loaded and pruned; builders and holders do the work. images.py (the
command) and node.py (for the node's own two images) call it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from e2e.cluster.image_builders import Builder
from e2e.cluster.image_holders import Cluster
from e2e.cluster.image_specs import Image
from e2e.cluster.places import Places
from e2e.cluster.steps import step


@contextmanager
def _alone(places: Places, what: str) -> Iterator[None]:
    """One process at a time works on an image; others build other images meanwhile."""
    places.cache.mkdir(parents=True, exist_ok=True)
    with (places.cache / f".image-{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_image(places: Places, images: dict[str, Image], what: str, builder: Builder) -> None:
    """Build an image, its parent first, unless the builder's store has the tag already."""
    image = images[what]
    with _alone(places, f"build-{what}"):
        if builder.has(image.tag):
            return
        if image.parent is not None:
            build_image(places, images, image.parent, builder)
        with step(f"Building {image.tag} ({image.cost})"):
            builder.build(image, images[image.parent].tag if image.parent else None)


def ensure_loaded(
    places: Places, images: dict[str, Image], wanted: list[str], builder: Builder, cluster: Cluster
) -> None:
    """Build what is missing and load it, one image at a time; what the cluster has is left."""
    for what in wanted:
        tag = images[what].tag
        with _alone(places, f"load-{what}"):
            if tag not in cluster.list_tags():
                build_image(places, images, what, builder)
                with step(f"Loading {tag} into the cluster"):
                    cluster.load(tag)


def choose_stale(present: set[str], current: set[str]) -> list[str]:
    """Of the images present, those of this project whose sources are no longer the current ones.
    Images that are not of this project are never named."""
    names = {tag.rsplit(":", 1)[0] for tag in current}
    return sorted(t for t in present - current if t.rsplit(":", 1)[0] in names)


def prune(images: dict[str, Image], builder: Builder, cluster: Cluster) -> None:
    """Remove the images of older sources from the cluster and from the builder's store."""
    current = {image.tag for image in images.values()}
    for holder, where in ((cluster, "the cluster"), (builder, "the store")):
        for tag in choose_stale(holder.list_tags(), current):
            with step(f"Removing {tag} from {where}"):
                holder.remove(tag)
