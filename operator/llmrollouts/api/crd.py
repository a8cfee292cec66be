"""Makes the CustomResourceDefinition from the models; ``--check`` fails when the file differs.

    python -m llmrollouts.api.crd           write crds/llmdeployments.llmrollouts.dev.yaml
    python -m llmrollouts.api.crd --check   compare, for `make check`

Run from the repository. Never used at run time: users install the file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import yaml

from llmrollouts.api import labels
from llmrollouts.api.generated import keep_file
from llmrollouts.api.manifest import Manifest
from llmrollouts.api.rules import VALIDATIONS, Rule
from llmrollouts.api.schema import Node, make_schema
from llmrollouts.api.spec import LLMDeploymentSpec
from llmrollouts.api.status import WrittenStatus
from llmrollouts.api.traffic import STAYS_DURING_A_ROLLOUT

FILE: Final = Path("crds") / f"{labels.PLURAL}.{labels.GROUP}.yaml"
MAX_NAME_LENGTH: Final = 40

_NAME_RULES: Final = (
    Rule(
        f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
        f"the name has at most {MAX_NAME_LENGTH} characters, because the names of the workers are "
        "made from it: shorten it",
    ),
    Rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "the name begins with a lower-case letter and has lower-case letters, digits and dashes "
        "only, because the names of the workers are made from it",
    ),
)

# (name, type, path, description). A path reaches one value; the step as printed is made for it.
_COLUMNS: Final = (
    ("Phase", "string", ".status.phase", "A summary in one word"),
    ("Stable", "string", ".status.stableRevision", "The revision that answers the users"),
    ("Canary", "string", ".status.canaryRevision", "The revision on its way"),
    ("Step", "string", ".status.stepText", "The running step"),
    ("Share", "string", ".status.share", "The share of users that the canary answers"),
    ("Verdict", "string", ".status.verdict", "The gravest verdict of the gates"),
    ("Age", "date", ".metadata.creationTimestamp", "Since when it exists"),
)
_WIDE_COLUMNS: Final = (
    ("Replicas", "integer", ".spec.replicas", "Workers that answer all users"),
    ("Ready", "integer", ".status.readyReplicas", "Workers that are ready"),
    ("Message", "string", ".status.message", "What happens now and what it waits for"),
)


def make_crd() -> Manifest:
    """The CustomResourceDefinition as a plain object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{labels.PLURAL}.{labels.GROUP}"},
        "spec": {
            "group": labels.GROUP,
            "names": {
                "kind": labels.KIND,
                "listKind": f"{labels.KIND}List",
                "plural": labels.PLURAL,
                "singular": labels.KIND.lower(),
                "shortNames": ["llmd"],
                # Not `all`: `kubectl delete all --all` must not take a model out of service.
                "categories": ["llm"],
            },
            "scope": "Namespaced",
            "versions": [_make_version()],
        },
    }


def _make_version() -> Node:
    return {
        "name": labels.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            *(_make_column(column, 0) for column in _COLUMNS),
            *(_make_column(column, 1) for column in _WIDE_COLUMNS),
        ],
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {"openAPIV3Schema": _make_root()},
    }


def _make_column(column: tuple[str, str, str, str], priority: int) -> Node:
    name, kind, path, description = column
    made: Node = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return {**made, "priority": priority} if priority else made


def _make_root() -> Node:
    return {
        "description": (
            "One large language model behind one address: the workers that serve it, and how a "
            "new revision of it takes over from the old one, step by step, with a way back in "
            "seconds."
        ),
        "type": "object",
        "required": ["spec"],
        VALIDATIONS: [rule.as_schema() for rule in (*_NAME_RULES, STAYS_DURING_A_ROLLOUT)],
        "properties": {
            "apiVersion": {
                "description": f"{labels.API_VERSION}",
                "type": "string",
            },
            "kind": {"description": f"{labels.KIND}", "type": "string"},
            # The bound is Kubernetes' own; without it the rules above would count as unbounded.
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 253}},
            },
            "spec": make_schema(LLMDeploymentSpec, defaults=True),
            "status": make_schema(WrittenStatus, defaults=False),
        },
    }


class _Dumper(yaml.SafeDumper):
    """Block style without anchors, so that the file reads and diffs well."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  yaml's signature
        return True


def render_crd() -> str:
    """The file's text."""
    head = (
        "# Generated from operator/llmrollouts/api; do not edit. "
        "Run: python -m llmrollouts.api.crd\n"
    )
    body: str = yaml.dump(
        make_crd(), Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True
    )
    return head + body


def main() -> int:
    return keep_file(FILE, render_crd(), "python -m llmrollouts.api.crd", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
