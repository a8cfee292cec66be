"""Revisions: identity by content, names that never collide, content that comes back whole."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrollouts.resources.canonical import canonical_json, canonical_source
from llmrollouts.resources.children import (
    UnreadableRevision,
    make_controller_revision,
    read_controller_revision,
)
from llmrollouts.resources.revision import make_revision, name_revision
from tests.resources.worlds import CPU, FULL, OWNER, SETTINGS, SMALL, make_content, make_spec

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=6), _JSON))
def test_a_source_does_not_depend_on_the_order_of_keys(revision: dict[str, Any]) -> None:
    turned = dict(reversed(revision.items()))
    assert canonical_source(turned) == canonical_source(revision)
    assert json.loads(canonical_source(revision)) == revision


def test_a_source_holds_what_the_user_gave_and_no_default() -> None:
    assert json.loads(make_content(SMALL).source) == SMALL


def test_the_same_content_has_the_same_name_and_other_content_another() -> None:
    source = canonical_source(SMALL)
    name = name_revision(source, {}, ())
    assert name == name_revision(source, {}, ())
    assert name != name_revision(canonical_source(CPU), {}, ())
    assert name != name_revision(source, {"prompt": "x"}, ())


def test_a_name_is_a_label_of_ten_characters_without_vowels() -> None:
    for n in range(200):
        name = name_revision(str(n), {}, ())
        assert re.fullmatch("[bcdfghjklmnpqrstvwxz2-9]{10}", name)


def test_a_taken_name_is_left_to_its_owner() -> None:
    taken: list[str] = []
    for _ in range(20):
        name = name_revision("source", {}, taken)
        assert name not in taken
        taken.append(name)


@pytest.mark.parametrize("revision", [SMALL, CPU, FULL], ids=["small", "cpu", "full"])
def test_a_stored_revision_comes_back_byte_for_byte(revision: dict[str, Any]) -> None:
    content = make_content(revision)
    stored = json.loads(json.dumps(make_controller_revision(OWNER, content)))
    assert read_controller_revision(stored) == content


def test_the_same_input_makes_the_same_content_again() -> None:
    assert make_content(FULL) == make_content(FULL)


def test_texts_of_references_become_the_workers_files() -> None:
    revision = {
        **SMALL,
        "prompt": {"configMapKeyRef": {"name": "prompts", "key": "chat"}},
        "retrieval": {"configMapKeyRef": {"name": "retrieval", "key": "config"}},
    }
    content = make_content(revision, {"prompt": "{{ x }}", "retrieval": '{"a": 1}'})
    assert content.files["chat_template.jinja"] == "{{ x }}"
    assert content.files["retrieval.json"] == '{"a": 1}'
    assert content.texts == {"prompt": "{{ x }}", "retrieval": '{"a": 1}'}


def test_without_an_engine_image_nothing_is_made() -> None:
    no_image = {**SMALL, "engine": {"device": "CPU"}}
    with pytest.raises(ValueError, match="no engine image"):
        make_revision("chat", make_spec(no_image), canonical_json(no_image), {}, SETTINGS, 1, ())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"metadata": {"name": "x"}}, "no label"),
        ({"revision": "7"}, "no number"),
        ({"data": None}, "no data"),
        ({"data": {"format": 2}}, "a format that this operator does not read"),
        ({"data": {"format": 1, "texts": {"prompt": 1}}}, "data.texts is no map of texts"),
        ({"data": {"format": 1, "files": []}}, "data.files is no map of texts"),
        ({"data": {"format": 1, "source": "{"}}, "data.source is no JSON object"),
        ({"data": {"format": 1, "source": "{}", "template": "[]"}}, "data.template is no JSON"),
    ],
)
def test_r26_a_foreign_controller_revision_is_named_and_never_trusted(
    change: dict[str, Any], told: str
) -> None:
    stored = {**make_controller_revision(OWNER, make_content(SMALL)), **change}
    with pytest.raises(UnreadableRevision, match=re.escape(told)):
        read_controller_revision(stored)
