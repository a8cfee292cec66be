"""What each image is made of, and the tag that follows from it. Pure apart from reading inputs.

A tag is `localhost/llm-rollouts-<what>:<12 characters>`, the hash of every file that the build
may see, of the parent's tag and of the options: an image with the right tag is the right image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.binaries import list_builds
from e2e.cluster.inputs import hash_inputs
from e2e.cluster.places import REPOSITORY, Places

PROJECT_IMAGES = ("operator", "gateway", "worker", "fake-engine", "vllm-cpu")
NODE_IMAGES = ("pause", "coredns")


@dataclass(frozen=True)
class Image:
    """One image. `files` maps a path in the build context to its source on this machine."""

    what: str
    tag: str
    dockerfile: Path
    files: tuple[tuple[str, Path], ...]
    parent: str | None = None  # `what` of the image given as the build argument BASE
    cost: str = "seconds"


@dataclass(frozen=True)
class Recipe:
    """Where an image's Dockerfile and inputs are, as paths below the repository."""

    dockerfile: str
    inputs: tuple[str, ...] = ()
    on_base: bool = True
    cost: str = "under a minute"


_RECIPES = {
    "base": Recipe(
        "images/base/Dockerfile", ("images/base/packages.txt",), False, "about a minute"
    ),
    "operator": Recipe(
        "images/operator/Dockerfile",
        (
            "requirements.txt",
            "images/operator/requirements.txt",
            "pyproject.toml",
            "README.md",
            "LICENSE",
            "operator",
        ),
    ),
    "gateway": Recipe("images/gateway/Dockerfile", ("images/gateway/requirements.txt",)),
    "worker": Recipe("worker_image/Dockerfile", ("worker_image/launcher",), cost="seconds"),
    "fake-engine": Recipe(
        "worker_image/Dockerfile.fake-engine",
        (
            "worker_image/fake_engine",
            "worker_image/fake_engine/requirements.txt",
            "e2e/models/tiny_model.py",
        ),
    ),
    "vllm-cpu": Recipe(
        "worker_image/Dockerfile.vllm-cpu",
        (
            "worker_image/vllm_cpu",
            "e2e/models/tiny_model.py",
        ),
        cost="several minutes",
    ),
}


def describe_images(places: Places, *, local_base: bool) -> dict[str, Image]:
    """Every image whose inputs exist, by name. With `local_base` the images stand on the base
    that this project makes itself; without it on the default of their Dockerfiles."""
    images: dict[str, Image] = {}
    for build in list_builds():
        if build.name in NODE_IMAGES:
            program = build.programs[0]
            dockerfile = REPOSITORY / "images" / build.name / "Dockerfile"
            tag = _tag(build.name, hash_inputs(REPOSITORY, [dockerfile], build.inputs))
            source = places.bin / build.folder / program
            images[build.name] = Image(build.name, tag, dockerfile, ((program, source),))
    for what, recipe in _RECIPES.items():
        if what == "base" and not local_base:
            continue
        image = _describe(what, recipe, images.get("base"))
        if image is not None:
            images[what] = image
    return images


def _describe(what: str, recipe: Recipe, base: Image | None) -> Image | None:
    dockerfile = REPOSITORY / recipe.dockerfile
    sources = [REPOSITORY / name for name in recipe.inputs]
    if not all(p.exists() for p in [dockerfile, *sources]):
        return None
    on_base = recipe.on_base and base is not None
    parent_tag = base.tag if on_base and base is not None else "default"
    inputs = hash_inputs(REPOSITORY, [dockerfile, *sources], parent_tag)
    return Image(
        what,
        _tag(what, inputs),
        dockerfile,
        tuple(zip(recipe.inputs, sources, strict=True)),
        "base" if on_base else None,
        recipe.cost,
    )


def _tag(what: str, inputs: str) -> str:
    return f"localhost/llm-rollouts-{what}:{inputs}"
