"""The base of all API types: camelCase on the wire, snake_case in Python, immutable values."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class ApiModel(BaseModel):
    """A frozen value of the API. Unknown fields are refused, as the CRD prunes them anyway."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        # The text below a field is its description: in the CRD, in `kubectl explain`, in the docs.
        use_attribute_docstrings=True,
    )


class StoredModel(ApiModel):
    """A value that an older or newer operator may have written: unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")
