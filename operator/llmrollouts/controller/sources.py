"""Resolves what a spec refers to: texts in ConfigMaps of the same namespace.

It decides whether a reference can be used now; a missing or oversized one is data (a
``SourceProblem`` that tells the user what to do), never an error. It reads no Secret and no other
namespace. Called by controller/observe in every round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmrollouts.api.manifest import Manifest
from llmrollouts.api.reasons import Reason
from llmrollouts.api.spec import MAX_TEXT, ConfigMapKeyRef, LLMDeploymentSpec
from llmrollouts.kube.port import CONFIG_MAP, NotFound, Reader, Rejected
from llmrollouts.resources.canonical import canonical_source
from llmrollouts.rollout.observation import SourceProblem

# As in the spec itself. A ControllerRevision holds all texts twice (as given and as the workers'
# file) beside the template, and etcd takes 1.5 MiB for one object.
LONGEST_TEXT: Final = MAX_TEXT


@dataclass(frozen=True, slots=True)
class Sources:
    """source: canonical JSON of spec.revision as given. texts: by field, empty on a problem."""

    source: str
    texts: Mapping[str, str]
    problem: SourceProblem | None = None


class _Unresolved(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.problem = SourceProblem(reason, message)


async def resolve_sources(reader: Reader, manifest: Manifest, spec: LLMDeploymentSpec) -> Sources:
    """Read every ConfigMap that ``spec`` names, in parallel. Raises only what the API raises."""
    source = canonical_source(manifest["spec"]["revision"])
    wanted = dict(_references(spec))
    namespace = manifest["metadata"]["namespace"]
    try:
        found = await asyncio.gather(
            *(_read_text(reader, namespace, field, ref) for field, ref in wanted.items())
        )
    except _Unresolved as unresolved:
        return Sources(source, {}, unresolved.problem)
    return Sources(source, dict(zip(wanted, found, strict=True)))


def _references(spec: LLMDeploymentSpec) -> list[tuple[str, ConfigMapKeyRef]]:
    given = (("prompt", spec.revision.prompt), ("retrieval", spec.revision.retrieval))
    return [
        (field, part.config_map_key_ref)
        for field, part in given
        if part is not None and part.config_map_key_ref is not None
    ]


async def _read_text(reader: Reader, namespace: str, field: str, ref: ConfigMapKeyRef) -> str:
    where = f"spec.revision.{field}.configMapKeyRef"
    try:
        config_map = await reader.get(CONFIG_MAP, namespace, ref.name)
    except NotFound:
        raise _Unresolved(
            Reason.CONFIG_MAP_MISSING,
            f"{where} names ConfigMap {ref.name!r}, which does not exist in namespace "
            f"{namespace!r}: create it, or correct the name",
        ) from None
    except Rejected:
        raise _Unresolved(
            Reason.SOURCE_FORBIDDEN,
            f"{where} names ConfigMap {ref.name!r}, which the operator may not read: allow its "
            "service account to get ConfigMaps in this namespace",
        ) from None
    data = config_map.get("data") or {}
    if ref.key not in data:
        known = ", ".join(sorted(data)[:5]) or "none"
        raise _Unresolved(
            Reason.CONFIG_MAP_KEY_MISSING,
            f"{where} names key {ref.key!r}, which ConfigMap {ref.name!r} lacks "
            f"(its keys: {known[:200]}): add the key, or correct the name",
        )
    text = str(data[ref.key])
    size = len(text.encode())
    if size > LONGEST_TEXT:
        raise _Unresolved(
            Reason.SOURCE_TOO_LARGE,
            f"{where}: the text has {size} bytes, a revision stores at most {LONGEST_TEXT}: "
            "shorten it",
        )
    return text
