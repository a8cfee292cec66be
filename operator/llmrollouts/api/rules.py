"""How a model or field of the API carries the rules that the API server itself checks (CEL).

A rule stands beside the field that it guards, with a message that says how to mend the input;
api/crd.py copies it into the CRD. Decides nothing at run time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Rule:
    """``rule``: a CEL expression over ``self``; ``message``: what a person reads when it is false.

    As metadata of ``Annotated`` it guards a field or the items of a list; ``rules`` puts it on a
    whole model. On a text it replaces the pattern in the CRD, whose message would be the pattern.
    """

    rule: str
    message: str

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        schema.pop("pattern", None)
        schema.setdefault(VALIDATIONS, []).append(self.as_schema())
        return schema

    def as_schema(self) -> dict[str, str]:
        return {"rule": self.rule, "message": self.message}


@dataclass(frozen=True, slots=True)
class Schema:
    """Further keys of a field's schema, such as ``x-kubernetes-list-type``."""

    keys: tuple[tuple[str, Any], ...]

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        schema.update(self.keys)
        return schema


def rules(*given: Rule) -> dict[str, Any]:
    """For ``model_config = ConfigDict(json_schema_extra=rules(…))``."""
    return {VALIDATIONS: [rule.as_schema() for rule in given]}


def matches(pattern: str, message: str) -> Rule:
    """The text must match ``pattern`` as a whole (anchors included in the pattern)."""
    return Rule(f"self.matches(r'{pattern}')", message)


ATOMIC_LIST = Schema((("x-kubernetes-list-type", "atomic"),))
NAMED_LIST = Schema((("x-kubernetes-list-type", "map"), ("x-kubernetes-list-map-keys", ("name",))))
TYPED_LIST = Schema((("x-kubernetes-list-type", "map"), ("x-kubernetes-list-map-keys", ("type",))))
ATOMIC_MAP = Schema((("x-kubernetes-map-type", "atomic"),))
