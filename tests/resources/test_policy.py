"""The administrator's rules: each refusal names the rule and the way to mend it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmrollouts.api.reasons import Reason
from llmrollouts.api.settings import OperatorSettings
from llmrollouts.resources.policy import refuse_revision
from tests.resources.worlds import COMMIT, DIGEST, SETTINGS, SMALL, make_spec

ANYTHING = replace(SETTINGS, require_digests=False)


def refuse(
    revision: dict[str, Any], settings: OperatorSettings = SETTINGS, name: str = "chat"
) -> Reason | None:
    refusal = refuse_revision(name, make_spec(revision).revision, settings)
    if refusal is None:
        return None
    assert len(refusal.message) > 30
    return refusal.reason


def with_image(image: str) -> dict[str, Any]:
    return {**SMALL, "engine": {"image": image}}


def test_the_smallest_revision_is_allowed() -> None:
    assert refuse(SMALL) is None


@pytest.mark.parametrize("name", ["x" * 41, "9chat", "Chat", "chat-", "a.b"])
def test_a_name_that_leaves_no_room_for_children_is_refused(name: str) -> None:
    assert refuse(SMALL, name=name) is Reason.NAME_TOO_LONG


def test_a_device_without_a_default_image_needs_one_named() -> None:
    assert refuse({**SMALL, "engine": {"device": "CPU"}}) is Reason.IMAGE_MISSING


@pytest.mark.parametrize("image", ["vllm", "vllm:latest", "registry.example/vllm:v1"])
def test_an_image_by_tag_is_refused_unless_tags_are_allowed(image: str) -> None:
    assert refuse(with_image(image)) is Reason.IMAGE_NOT_PINNED
    assert refuse(with_image(image), ANYTHING) is None


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("registry.example/team/vllm:1", True),
        ("registry.example/teammate/vllm:1", False),
        ("registry.example.evil/team/vllm:1", False),
        ("docker.io/registry.example/team/vllm:1", False),
        ("pinned.example/vllm:1", True),
        ("pinned.example/vllm-other:1", False),
    ],
)
def test_prefixes_of_images_end_at_a_boundary(image: str, allowed: bool) -> None:
    settings = replace(
        ANYTHING, allowed_images=("registry.example/team", "pinned.example/vllm", "")
    )
    assert (refuse(with_image(image), settings) is None) == allowed


def test_the_operators_own_default_image_needs_no_permission() -> None:
    assert refuse(SMALL, replace(SETTINGS, allowed_images=("other.example/",))) is None


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        (f"hf://org/model@{COMMIT}", True),
        (f"hf://organ/model@{COMMIT}", False),
        (f"oci://registry.example/m@{DIGEST}", True),
        (f"oci://registry.example.evil/m@{DIGEST}", False),
        ("s3://bucket/model", False),
        ("file:///models/v1", True),
    ],
)
def test_r25_models_come_only_from_where_the_administrator_allows(uri: str, allowed: bool) -> None:
    settings = replace(
        SETTINGS, allowed_models=("hf://org/", "oci://registry.example", "file:///models")
    )
    assert (refuse({"model": {"uri": uri}}, settings) is None) == allowed


@pytest.mark.parametrize(
    ("revision", "reason"),
    [
        ({**SMALL, "engine": {"extraArgs": ["--trust-remote-code"]}}, Reason.INVALID_SPEC),
        ({**SMALL, "engine": {"env": [{"name": "LD_AUDIT", "value": "x"}]}}, Reason.INVALID_SPEC),
        ({"model": {"uri": "http://169.254.169.254/"}}, Reason.INVALID_SPEC),
        ({**SMALL, "retrieval": {"config": {"t": "x" * 70_000}}}, Reason.SOURCE_TOO_LARGE),
    ],
)
def test_what_an_older_crd_let_in_is_not_stored(revision: dict[str, Any], reason: Reason) -> None:
    assert refuse(revision) is reason
