"""The two tiny models: the same bytes everywhere, and words that tell them apart."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

from e2e.models.tiny_model import (
    COMMON_WORDS,
    LAND_WORDS,
    RECIPES,
    SEA_WORDS,
    main,
    make_vocabulary,
)

# The checksums that examples and tests may name; a change of the maker changes them on purpose.
WEIGHTS = {
    "v1": "b846216da067577ac4cd1c3cfa9388037027fbb4f2f63a9d53d3a9c2aea8a99b",
    "v2": "e6664ce4463cc4cf096267f8dbed0f9f22a852da96d3707f914a2ec2ef40a6dd",
}


def test_weights_have_the_published_checksums(models: Path) -> None:
    for name, expected in WEIGHTS.items():
        content = (models / name / "model.safetensors").read_bytes()
        assert hashlib.sha256(content).hexdigest() == expected


def test_weights_are_well_formed_safetensors(models: Path) -> None:
    content = (models / "v1" / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__")
    end = 0
    for tensor in header.values():
        start, end_of_this = tensor["data_offsets"]
        assert start == end
        count = 1
        for extent in tensor["shape"]:
            count *= extent
        assert end_of_this - start == 2 * count
        end = end_of_this
    assert 8 + size + end == len(content)


def test_every_word_is_one_token() -> None:
    vocabulary, _ = make_vocabulary()
    for word in (*COMMON_WORDS, *LAND_WORDS, *SEA_WORDS):
        assert f"\u0120{word}" in vocabulary
    assert len(set(vocabulary.values())) == len(vocabulary)


def test_models_share_no_word_of_their_own() -> None:
    assert not set(RECIPES["v1"].words) & set(RECIPES["v2"].words)


def test_defaults_for_the_fake_engine_are_written_only_when_asked(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "--only", "v2"]) == 0
    assert "fake_engine" not in json.loads((tmp_path / "v2" / "config.json").read_text())
    assert not (tmp_path / "v1").exists()
    assert main(["--out", str(tmp_path), "--fake-engine", '{"slowdown": 2}']) == 0
    config = json.loads((tmp_path / "v2" / "config.json").read_text())
    assert config["fake_engine"]["slowdown"] == 2
    assert config["fake_engine"]["words"] == list(SEA_WORDS)
