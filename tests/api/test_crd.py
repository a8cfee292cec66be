"""The generated files are up to date and the schema is what an API server takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from llmrollouts.api import crd, reference
from llmrollouts.api.generated import keep_file
from llmrollouts.api.model import ApiModel
from llmrollouts.api.reasons import ConditionType, DocumentedName, Reason
from llmrollouts.api.rules import VALIDATIONS
from llmrollouts.api.schema import make_schema
from llmrollouts.api.status import LLMDeploymentStatus

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT = crd.make_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def walk(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, inner in node.get("properties", {}).items():
        yield from walk(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from walk(node[key], f"{path}[]")


FIELDS = [*walk(ROOT["properties"]["spec"], "spec"), *walk(ROOT["properties"]["status"], "status")]


def test_a_name_says_whether_a_secret_or_an_entry_of_one_is_meant() -> None:
    """One convention: an entry (name, key) is ...SecretKeyRef, a whole Secret ...SecretRef, but for
    the names that people know from pods."""
    entries, whole = set(), set()
    for path, node in FIELDS:
        field = path.removesuffix("[]").rpartition(".")[2]
        fields = set(node.get("properties", {}))
        told = str(node.get("description", "")) + str(
            node.get("properties", {}).get("name", {}).get("description", "")
        )
        if fields == {"name", "key"} and "Secret" in told:
            entries.add(field)
        elif fields == {"name"} and "Secret" in told:
            whole.add(field)
    assert {field for field in entries if not field.endswith("SecretKeyRef")} == set()
    assert {"tokenSecretKeyRef", "bearerTokenSecretKeyRef", "keySecretKeyRef"} <= entries
    assert {field for field in whole if not field.endswith("SecretRef")} == {"imagePullSecrets"}


@pytest.mark.parametrize("module", [crd, reference], ids=["crd", "reference"])
def test_the_file_in_the_repository_is_the_generated_one(
    module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", ["x", "--check"])
    assert module.main() == 0, capsys.readouterr().err


def test_check_fails_when_the_file_differs_and_says_what_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "crds" / "x.yaml"
    assert keep_file(path, "a: 1\n", "make-it", []) == 0
    assert keep_file(path, "a: 1\n", "make-it", ["--check"]) == 0
    assert keep_file(path, "a: 2\n", "make-it", ["--check"]) == 1
    told = capsys.readouterr().err
    assert "+a: 2" in told
    assert "run make-it" in told
    assert keep_file(path, "a: 2\n", "make-it", ["--chekc"]) == 2
    assert path.read_text() == "a: 1\n"


def test_the_rendered_file_reads_back_as_made() -> None:
    assert yaml.safe_load(crd.render_crd()) == crd.make_crd()


@pytest.mark.parametrize(("path", "node"), FIELDS, ids=[path for path, _ in FIELDS])
def test_every_field_is_described_and_bounded(path: str, node: dict[str, Any]) -> None:
    if not path.endswith("[]"):
        assert len(node["description"]) > 10, path
    kind = node.get("type")
    if kind == "string":
        # A pattern alone is no bound, and an unbounded text makes rules too costly to admit.
        assert node.keys() & {"maxLength", "enum", "format"}, path
    if kind == "array":
        assert "maxItems" in node, path
        assert "x-kubernetes-list-type" in node, path
    if "additionalProperties" in node:
        assert "maxProperties" in node, path
    if path.startswith("spec") and kind == "integer":
        assert {"minimum", "maximum"} <= node.keys(), path


@pytest.mark.parametrize(("path", "node"), FIELDS, ids=[path for path, _ in FIELDS])
def test_the_schema_is_structural(path: str, node: dict[str, Any]) -> None:
    assert not node.keys() & {"$ref", "title", "oneOf", "allOf", "const", "$defs"}, path
    assert "type" in node or "x-kubernetes-int-or-string" in node, path
    if "anyOf" in node:
        assert node["x-kubernetes-int-or-string"], path
    assert not ("properties" in node and "additionalProperties" in node), path


def test_nothing_inside_of_a_revision_has_a_default() -> None:
    inside = [node for path, node in FIELDS if path.startswith("spec.revision.")]
    assert inside
    assert not [node for node in inside if "default" in node]


def test_every_rule_says_how_to_mend_the_input() -> None:
    found = [rule for _, node in FIELDS for rule in node.get(VALIDATIONS, [])]
    assert len(found) > 40
    for rule in found:
        assert len(rule["message"]) > 20, rule
        assert "\n" not in rule["message"], rule


def test_only_the_retrieval_configuration_is_open() -> None:
    opened = [path for path, node in FIELDS if "x-kubernetes-preserve-unknown-fields" in node]
    assert opened == ["spec.revision.retrieval.config"]


def test_what_the_operator_writes_has_its_place_in_the_schema() -> None:
    fields = {field.alias for field in LLMDeploymentStatus.model_fields.values()}
    assert fields | {"stepText", "verdict"} == set(ROOT["properties"]["status"]["properties"])


def test_a_field_without_a_description_is_refused() -> None:
    class Bare(ApiModel):
        undescribed: int

    with pytest.raises(ValueError, match=r"Bare\.undescribed has no description"):
        make_schema(Bare, defaults=True)


def test_a_bound_that_a_crd_cannot_say_is_refused_rather_than_dropped() -> None:
    class Odd(ApiModel):
        even: int = Field(multiple_of=2, description="an even number, which nobody could check")

    with pytest.raises(ValueError, match="multipleOf"):
        make_schema(Odd, defaults=True)


@pytest.mark.parametrize("names", [ConditionType, Reason])
def test_every_reason_is_one_camel_case_word_with_a_line_of_meaning(
    names: type[DocumentedName],
) -> None:
    for name in names:
        assert name.value.isalnum(), name
        assert name.value[0].isupper(), name
        assert name.doc.endswith("."), name
    assert len({name.value for name in names}) == len(names.__members__)
