"""Addresses of models: five forms, each pinned, none that escapes its place."""

from __future__ import annotations

import re

import pytest

from llmrollouts.api.model_uri import (
    FileModel,
    HubModel,
    ImageModel,
    ModelUri,
    ObjectStoreModel,
    VolumeModel,
    parse_model_uri,
)

COMMIT = "a" * 40
DIGEST = "b" * 64


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        (f"hf://org/Name-7B.v2@{COMMIT}", HubModel("org/Name-7B.v2", COMMIT)),
        ("s3://bucket/models/v1", ObjectStoreModel("s3://bucket/models/v1")),
        (
            f"oci://registry.example:5000/team/model@sha256:{DIGEST}",
            ImageModel(f"registry.example:5000/team/model@sha256:{DIGEST}"),
        ),
        ("pvc://models", VolumeModel("models", "")),
        ("pvc://models/team/v1", VolumeModel("models", "team/v1")),
        ("file:///models/v1", FileModel("/models/v1")),
    ],
)
def test_reads_the_five_forms(text: str, uri: ModelUri) -> None:
    assert parse_model_uri(text) == uri


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("org/name", "begins with hf://"),
        ("http://host/model", "begins with hf://"),
        ("hf://org/name", "commit of 40 hex digits"),
        ("hf://org/name@main", "commit of 40 hex digits"),
        (f"hf://name@{COMMIT}", "commit of 40 hex digits"),
        (f"hf://-x/name@{COMMIT}", "commit of 40 hex digits"),
        (f"hf://org/name@{COMMIT}\n", "commit of 40 hex digits"),
        ("s3://bucket", "s3://<bucket>/<path>"),
        ("s3://bucket/../other", "s3://<bucket>/<path>"),
        ("oci://registry/model:latest", "sha256"),
        ("pvc://claim/../../etc", "no part may begin with a dot"),
        ("pvc://Claim/x", "pvc://<claim>/<path>"),
        ("file://models/v1", "file:///<path>"),
        ("file:///models/../etc", "no part may begin with a dot"),
        ("file:///a b", "file:///<path>"),
        ("file:///" + "x" * 600, "begins with hf://"),
    ],
)
def test_refuses_with_a_message_that_says_how_to_mend(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        parse_model_uri(text)
