"""An image's tag says what is in it: nothing gets in that the tag does not depend on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from e2e.cluster.image_loading import choose_stale
from e2e.cluster.image_specs import PROJECT_IMAGES, Image, describe_images
from e2e.cluster.places import REPOSITORY, Places

IMAGES = describe_images(Places(Path("/cache")), local_base=True)
BUILT_IN_CONTEXT = {"base": {"base.tar"}}


def instructions(image: Image) -> list[list[str]]:
    text = image.dockerfile.read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines()]
    return [words for words in lines if words and not words[0].startswith("#")]


def test_every_image_of_the_project_is_described() -> None:
    assert set(PROJECT_IMAGES) <= set(IMAGES)


@pytest.mark.parametrize("what", IMAGES)
def test_a_tag_names_the_image_and_the_hash_of_its_inputs(what: str) -> None:
    assert re.fullmatch(rf"localhost/llm-rollouts-{what}:[0-9a-f]{{12}}", IMAGES[what].tag)


@pytest.mark.parametrize("what", IMAGES)
def test_a_dockerfile_copies_only_declared_inputs(what: str) -> None:
    declared = {name for name, _ in IMAGES[what].files} | BUILT_IN_CONTEXT.get(what, set())
    for words in instructions(IMAGES[what]):
        if words[0] in ("COPY", "ADD"):
            for source in words[1:-1]:
                assert any(source == name or source.startswith(f"{name}/") for name in declared), (
                    source
                )


@pytest.mark.parametrize("what", [*PROJECT_IMAGES, "pause", "coredns"])
def test_an_image_runs_as_an_ordinary_user(what: str) -> None:
    users = [words[1] for words in instructions(IMAGES[what]) if words[0] == "USER"]
    assert users
    assert int(users[-1].split(":")[0]) > 0


@pytest.mark.parametrize("what", PROJECT_IMAGES)
def test_a_dockerfile_builds_with_plain_docker_too(what: str) -> None:
    first, second = instructions(IMAGES[what])[:2]
    assert first[0] == "ARG"
    assert first[1].startswith("BASE=")
    assert "/" not in first[1], "the default base is an official image, no address in it"
    assert second == ["FROM", "${BASE}"]


@pytest.mark.parametrize("what", PROJECT_IMAGES)
def test_another_base_gives_another_tag(what: str) -> None:
    on_default = describe_images(Places(Path("/cache")), local_base=False)
    assert IMAGES[what].parent == "base"
    assert on_default[what].parent is None
    assert on_default[what].tag != IMAGES[what].tag


def test_the_tag_does_not_depend_on_the_cache() -> None:
    elsewhere = describe_images(Places(Path("/elsewhere")), local_base=True)
    assert {w: i.tag for w, i in elsewhere.items()} == {w: i.tag for w, i in IMAGES.items()}


def test_pinned_requirements_of_images_carry_hashes() -> None:
    files = [
        REPOSITORY / "requirements.txt",
        *REPOSITORY.glob("images/*/requirements.txt"),
        *REPOSITORY.glob("worker_image/*/requirements.txt"),
    ]
    assert len(files) >= 4
    for file in files:
        pins = re.findall(r"^[A-Za-z0-9].*", file.read_text(), re.MULTILINE)
        assert pins, file
        assert file.read_text().count("--hash=sha256:") >= len(pins), file


def test_pruning_names_older_images_of_this_project_and_no_others() -> None:
    current = {"localhost/llm-rollouts-operator:new", "localhost/llm-rollouts-worker:new"}
    present = {
        *current,
        "localhost/llm-rollouts-operator:old",
        "localhost/somebody:old",
        "registry/llm-rollouts-operator:old",
    }
    assert choose_stale(present, current) == ["localhost/llm-rollouts-operator:old"]
