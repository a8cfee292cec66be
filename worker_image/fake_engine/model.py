"""The model's folder as far as a fake needs it: how long prompts may be, and its own defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .language import DEFAULT_WORDS, seed_of

DEFAULT_MAX_MODEL_LEN = 4096


class ModelMissing(Exception):
    """The folder is not there or is not a model."""


@dataclass(frozen=True)
class FakeModel:
    """`words` is the vocabulary of answers; `settings` the model's own behaviour defaults."""

    name: str
    max_model_len: int
    words: tuple[str, ...]
    settings: Mapping[str, object]
    template_digest: int


def load_model(location: str, max_model_len: int | None, chat_template: str | None) -> FakeModel:
    """Read `config.json`; `ModelMissing` when vLLM could not start with this folder either."""
    path = Path(location) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelMissing(f"cannot load the model {location}: {error}") from error
    if not isinstance(config, dict):
        raise ModelMissing(f"cannot load the model {location}: config.json is not an object")
    longest = config.get("max_position_embeddings", DEFAULT_MAX_MODEL_LEN)
    if max_model_len is not None and max_model_len > longest:
        raise ModelMissing(
            f"max_model_len {max_model_len} is above what the model can take, {longest}"
        )
    settings = dict(config.get("fake_engine") or {})
    words = tuple(settings.pop("words", ())) or tuple(DEFAULT_WORDS)
    template = Path(chat_template).read_text(encoding="utf-8") if chat_template else ""
    return FakeModel(
        name=Path(location).name,
        max_model_len=max_model_len or longest,
        words=words,
        settings=settings,
        template_digest=seed_of(template),
    )
