"""Makes the content of a stored revision: its name, its files and its rendered pod template.

Called once for each revision, when the state machine decides to store it; from then on the stored
content is the truth, and a newer operator never renders it again. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from llmrollouts.api.settings import OperatorSettings
from llmrollouts.api.spec import LLMDeploymentSpec
from llmrollouts.resources.canonical import canonical_json
from llmrollouts.resources.launcher_config import (
    CONFIG_FILE,
    RETRIEVAL_FILE,
    TEMPLATE_FILE,
    make_launcher_config,
)
from llmrollouts.resources.pod_template import make_pod_template

NAME_LENGTH: Final = 10
# Neither vowels nor look-alikes: a name is read aloud and never spells a word.
_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True, slots=True)
class RevisionContent:
    """What a ControllerRevision holds.

    source: canonical JSON of spec.revision as the user gave it. texts: resolved texts of the
    references, by field (``prompt``, ``retrieval``). template: canonical JSON of the pod template.
    files: the revision's own ConfigMap.
    """

    name: str
    number: int
    source: str
    texts: Mapping[str, str]
    template: str
    files: Mapping[str, str]


def name_revision(source: str, texts: Mapping[str, str], taken: Collection[str]) -> str:
    """Ten characters that follow from the content, and from a counter where they are taken.

    The name identifies nothing: contents are compared as stored.
    """
    content = canonical_json([source, dict(texts)])
    for counter in range(len(taken) + 1):
        digest = hashlib.sha256(f"{counter}\n{content}".encode()).digest()
        number = int.from_bytes(digest, "big")
        letters = []
        for _ in range(NAME_LENGTH):
            number, rest = divmod(number, len(_ALPHABET))
            letters.append(_ALPHABET[rest])
        name = "".join(letters)
        if name not in taken:
            return name
    raise AssertionError("more names than taken ones were tried, and all were taken")


def make_revision(
    deployment: str,
    spec: LLMDeploymentSpec,
    source: str,
    texts: Mapping[str, str],
    settings: OperatorSettings,
    number: int,
    taken: Collection[str],
) -> RevisionContent:
    """The content to store for ``spec.revision``.

    number: grows with each stored revision of the deployment. taken: names that are in use.
    Raises ValueError for what policy.refuse_revision refuses.
    """
    name = name_revision(source, texts, taken)
    template_text = _prompt_text(spec, texts)
    files = {
        CONFIG_FILE: make_launcher_config(
            deployment, spec, settings, has_template=template_text is not None
        )
    }
    if template_text is not None:
        files[TEMPLATE_FILE] = template_text
    retrieval = _retrieval_text(spec, texts)
    if retrieval is not None:
        files[RETRIEVAL_FILE] = retrieval
    template = make_pod_template(deployment, name, spec.revision, settings)
    return RevisionContent(
        name=name,
        number=number,
        source=source,
        texts=dict(texts),
        template=canonical_json(template),
        files=files,
    )


def _prompt_text(spec: LLMDeploymentSpec, texts: Mapping[str, str]) -> str | None:
    prompt = spec.revision.prompt
    if prompt is None:
        return None
    return texts["prompt"] if prompt.config_map_key_ref is not None else prompt.chat_template


def _retrieval_text(spec: LLMDeploymentSpec, texts: Mapping[str, str]) -> str | None:
    retrieval = spec.revision.retrieval
    if retrieval is None:
        return None
    if retrieval.config_map_key_ref is not None:
        return texts["retrieval"]
    return canonical_json(retrieval.config)
