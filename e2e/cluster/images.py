"""`python -m e2e.cluster.images [WHAT ...]`: build images, load them, print their tags as JSON.

Standard output carries only the JSON object, `{"operator": "localhost/llm-rollouts-…", …}`, so
other programs can read it; progress goes to standard error. Without arguments it takes every
image of the project; `--tags` prints the tags without building anything.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from e2e.cluster.image_builders import Buildah, Builder, Docker, docker_answers
from e2e.cluster.image_holders import Cluster, KindImages, NodeImages
from e2e.cluster.image_loading import build_image, ensure_loaded, prune
from e2e.cluster.image_specs import PROJECT_IMAGES, Image, describe_images
from e2e.cluster.places import Places, find_places
from e2e.cluster.steps import CannotContinueError, say


def ensure_images(wanted: list[str], *, load: bool = True) -> dict[str, str]:
    """Tags by name, after every image is in the cluster (or, without `load`, built).

    Raises CannotContinueError when an image's inputs are missing or a build fails.
    """
    places = find_places()
    use_docker = docker_answers()
    images = _choose(places, wanted, use_docker)
    builder, cluster = _connect(places, use_docker)
    if load:
        ensure_loaded(places, images, wanted, builder, cluster)
    else:
        for what in wanted:
            build_image(places, images, what, builder)
    return {what: images[what].tag for what in wanted}


def list_tags(wanted: list[str]) -> dict[str, str]:
    """The tags that the present inputs give, built or not."""
    images = _choose(find_places(), wanted, docker_answers())
    return {what: images[what].tag for what in wanted}


def prune_images() -> None:
    """Remove what older sources left behind, in the cluster and in the builder's store."""
    places, use_docker = find_places(), docker_answers()
    prune(describe_images(places, local_base=not use_docker), *_connect(places, use_docker))


def _connect(places: Places, use_docker: bool) -> tuple[Builder, Cluster]:
    if use_docker:
        return Docker(places), KindImages()
    return Buildah(places), NodeImages(places, Buildah(places))


def _choose(places: Places, wanted: list[str], use_docker: bool) -> dict[str, Image]:
    images = describe_images(places, local_base=not use_docker)
    for what in wanted:
        if what not in images:
            raise CannotContinueError(
                f"There is no image {what!r}, or one of its inputs is missing "
                f"(known: {', '.join(sorted(images))})."
            )
    return images


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="e2e.cluster.images", description=__doc__)
    parser.add_argument("what", nargs="*", help="images to build; all of the project's by default")
    parser.add_argument("--tags", action="store_true", help="print the tags, build nothing")
    parser.add_argument("--prune", action="store_true", help="remove images of older sources")
    parser.add_argument("--no-load", action="store_true", help="build, but load nothing")
    parser.add_argument("--output", type=Path, help="write the JSON to this file as well")
    options = parser.parse_args(arguments)
    wanted = options.what or list(PROJECT_IMAGES)
    try:
        if options.prune:
            prune_images()
            return 0
        tags = (
            list_tags(wanted) if options.tags else ensure_images(wanted, load=not options.no_load)
        )
    except CannotContinueError as problem:
        say(str(problem))
        return 1
    text = json.dumps(tags, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
