"""Turns a pydantic model into a structural schema, the form that a CRD takes.

pydantic writes JSON Schema with references, ``anyOf`` with null, titles and closed objects; the
API server takes none of these. What a model cannot say is refused here with an error rather than
dropped: a rule that vanishes is a rule that somebody believes in. Called by crd.py only.
"""

from __future__ import annotations

import inspect
from typing import Any, Final, TypeAlias

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from llmrollouts.api.rules import VALIDATIONS

Node: TypeAlias = dict[str, Any]

_KEPT: Final = frozenset(
    {
        "type",
        "format",
        "enum",
        "pattern",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "maxItems",
        "maxProperties",
        VALIDATIONS,
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-map-type",
        "x-kubernetes-preserve-unknown-fields",
    }
)
# Said otherwise below, or by a rule with a better message (minItems).
_DROPPED: Final = frozenset({"title", "default", "description", "additionalProperties", "minItems"})


def make_schema(model: type[BaseModel], *, defaults: bool) -> Node:
    """The structural schema of ``model``; ``defaults``: with the models' defaults."""
    document = model.model_json_schema(by_alias=True)
    definitions = document.pop("$defs", {})
    return _Maker(definitions, _find_models(model)).convert_object(model, document, defaults)


def _find_models(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {}

    def visit(annotation: Any) -> None:
        is_model = inspect.isclass(annotation) and issubclass(annotation, BaseModel)
        if is_model and annotation.__name__ not in found:
            found[annotation.__name__] = annotation
            for field in annotation.model_fields.values():
                visit(field.annotation)
        for part in getattr(annotation, "__args__", ()):
            visit(part)

    visit(model)
    return found


class _Maker:
    def __init__(self, definitions: Node, models: dict[str, type[BaseModel]]) -> None:
        self._definitions = definitions
        self._models = models

    def convert_object(self, model: type[BaseModel], given: Node, defaults: bool) -> Node:
        """An object with named properties; every one of them has a description."""
        properties: Node = {}
        for field in model.model_fields.values():
            name = field.alias or ""
            if not field.description:
                raise ValueError(f"{model.__name__}.{name} has no description")
            made = {
                **self._convert(given["properties"][name], defaults),
                "description": _one_line(field.description),
            }
            if defaults and (default := _default_of(field)) is not None:
                made["default"] = default
            properties[name] = {"description": made.pop("description"), **made}
        made = {
            "description": _one_line(given.get("description", "")),
            "type": "object",
            "properties": properties,
        }
        # A field with a default of the API may be left out by the user, so it is never required.
        if required := given.get("required"):
            made["required"] = list(required)
        if VALIDATIONS in given:
            made[VALIDATIONS] = given[VALIDATIONS]
        return made

    def _convert(self, given: Node, defaults: bool) -> Node:
        if "$ref" in given:
            name = given["$ref"].rpartition("/")[2]
            model = self._models[name]
            # A revision's identity is what the user gave: nothing below it may be filled in.
            inner = defaults and name != "Revision"
            return self.convert_object(model, self._definitions[name], inner)
        if "anyOf" in given:
            return self._convert_choice(given, defaults)
        unknown = set(given) - _KEPT - _DROPPED - {"items", "const"}
        if unknown:
            raise ValueError(f"a structural schema has no {sorted(unknown)}")
        made = {key: _plain(value) for key, value in given.items() if key in _KEPT}
        if "items" in given:
            made["items"] = self._convert(given["items"], defaults)
        if given.get("type") == "object":
            values = given.get("additionalProperties")
            if isinstance(values, dict):
                made["additionalProperties"] = self._convert(values, defaults)
        return made

    def _convert_choice(self, given: Node, defaults: bool) -> Node:
        choices = [choice for choice in given["anyOf"] if choice.get("type") != "null"]
        if len(choices) == 1:
            return self._convert(choices[0], defaults)
        kinds = sorted(choice.get("type", "") for choice in choices)
        if kinds != ["integer", "string"]:
            raise ValueError(f"a structural schema cannot choose between {kinds}")
        text = next(choice for choice in choices if choice["type"] == "string")
        made = {key: _plain(value) for key, value in text.items() if key in _KEPT - {"type"}}
        return {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            **made,
        }


def _default_of(field: FieldInfo) -> Any:
    """The default as JSON; None where there is none. A model's own defaults stand in its fields."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined or default is None:
        return None
    if isinstance(default, BaseModel):
        return default.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if isinstance(default, list):
        return [item.model_dump(mode="json", by_alias=True, exclude_unset=True) for item in default]
    return default


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
