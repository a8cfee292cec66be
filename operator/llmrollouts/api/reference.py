"""Writes docs/api-reference.md from the CRD and the lists of api/; ``--check`` compares.

    python -m llmrollouts.api.reference           write it
    python -m llmrollouts.api.reference --check   compare, for `make check`

Run from the repository. Never used at run time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from llmrollouts.api import engine_settings, labels
from llmrollouts.api.command import MEANINGS, NEEDS_REVISION, VERBS
from llmrollouts.api.crd import make_crd
from llmrollouts.api.generated import keep_file
from llmrollouts.api.reasons import ConditionType, DocumentedName, Reason
from llmrollouts.api.rules import VALIDATIONS
from llmrollouts.api.schema import Node

FILE: Final = Path("docs") / "api-reference.md"

_BOUNDS: Final = (
    ("minimum", "at least {}"),
    ("maximum", "at most {}"),
    ("minLength", "at least {} character"),
    ("maxLength", "at most {} characters"),
    ("maxItems", "at most {} items"),
    ("maxProperties", "at most {} entries"),
)


def render_reference() -> str:
    """The file's text."""
    version = make_crd()["spec"]["versions"][0]
    root = version["schema"]["openAPIV3Schema"]
    columns = (column["name"] for column in version["additionalPrinterColumns"])
    lines = [
        "# API reference",
        "",
        "Generated from `operator/llmrollouts/api` by `python -m llmrollouts.api.reference`.",
        "",
        f"`{labels.API_VERSION}`, kind `{labels.KIND}`, plural `{labels.PLURAL}`, short name "
        "`llmd`. " + root["description"],
        "",
        f"`kubectl get llmd` prints: {', '.join(columns)} (the last three with `-o wide`).",
        "`kubectl scale` works on `spec.replicas`. `kubectl explain llmd.spec` tells the same.",
        "",
        *_list_rules("the whole resource", root),
        "## Spec",
        "",
        root["properties"]["spec"]["description"],
        "",
        *_list_fields("spec", root["properties"]["spec"]),
        "## Status",
        "",
        root["properties"]["status"]["description"],
        "",
        *_list_fields("status", root["properties"]["status"]),
        *_list_names("## Conditions", ConditionType),
        *_list_names("## Reasons of conditions and events", Reason),
        *_list_commands(),
        *_list_engine_settings(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _list_fields(path: str, node: Node) -> Iterator[str]:
    """One heading for each object, one line for each of its fields, depth first."""
    nested: list[tuple[str, Node]] = []
    required = node.get("required", [])
    for name, field in node.get("properties", {}).items():
        inner = field.get("items", field)
        facts = [_name_type(field)]
        if name in required:
            facts.append("required")
        if "default" in field and not isinstance(field["default"], dict):
            facts.append(f"default `{_short_json(field['default'])}`")
        facts.extend(text.format(field[key]) for key, text in _BOUNDS if key in field)
        if isinstance(values := field.get("additionalProperties"), dict):
            facts.extend(
                f"values {text.format(values[key])}" for key, text in _BOUNDS if key in values
            )
        yield f"- `{path}.{name}` ({', '.join(facts)}): {field['description']}"
        if "properties" in inner:
            nested.append((f"{path}.{name}" + ("[]" if "items" in field else ""), inner))
            continue
        for rule in _rules_below(field):
            yield f"  - Rule: {rule}."
    yield ""
    yield from _list_rules(f"`{path}`", node)
    for inner_path, inner in nested:
        yield f"### {inner_path}"
        yield ""
        yield inner.get("description", "")
        yield ""
        yield from _list_fields(inner_path, inner)


def _rules_below(field: Node) -> Iterator[str]:
    for node in (field, field.get("items"), field.get("additionalProperties")):
        if isinstance(node, dict):
            yield from _messages(node)


def _list_rules(what: str, node: Node) -> Iterator[str]:
    messages = list(_messages(node))
    if messages:
        yield f"Rules of {what}:"
        yield ""
        yield from (f"- {message}." for message in messages)
        yield ""


def _messages(node: Node) -> Iterable[str]:
    return dict.fromkeys(rule["message"] for rule in node.get(VALIDATIONS, []))


def _name_type(field: Node) -> str:
    if "x-kubernetes-int-or-string" in field:
        return "quantity"
    if "enum" in field:
        return "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        return "list of " + _name_type(field["items"])
    values = field.get("additionalProperties")
    if isinstance(values, dict):
        return f"map of {_name_type(values)}"
    return "time" if field.get("format") == "date-time" else str(field["type"])


def _short_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _list_names(heading: str, names: type[DocumentedName]) -> Iterator[str]:
    yield heading
    yield ""
    yield from (f"- `{name.value}`: {name.doc}" for name in names)
    yield ""


def _list_commands() -> Iterator[str]:
    yield "## Commands"
    yield ""
    yield (
        f"A command is the value of the annotation `{labels.COMMAND}`: `verb[:revision][/nonce]`. "
        "`kubectl llm` writes it; `kubectl annotate` works as well. It is executed once and the "
        "annotation is removed. A command that stands in an applied manifest is refused."
    )
    yield ""
    for verb in VERBS:
        must = " (must name the revision)" if verb in NEEDS_REVISION else ""
        yield f"- `{verb}`{must}: {MEANINGS[verb]}."
    yield ""


def _list_engine_settings() -> Iterator[str]:
    yield "## Arguments that `engine.extraArgs` may hold"
    yield ""
    names = [*engine_settings.ALLOWED_ARGUMENTS, *engine_settings.ALLOWED_ITEMS]
    yield ", ".join(f"`{name}`" for name in sorted(names)) + "."
    yield ""
    yield "## Variables that `engine.env` may not hold"
    yield ""
    yield ", ".join(f"`{name}`" for name in engine_settings.FORBIDDEN_VARIABLES) + (
        ", and every name that begins with "
        + " or ".join(f"`{prefix}`" for prefix in engine_settings.FORBIDDEN_PREFIXES)
        + "."
    )


def main() -> int:
    return keep_file(FILE, render_reference(), "python -m llmrollouts.api.reference", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
