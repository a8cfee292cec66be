"""Compares what a maker made with a file that a reviewer can read.

Set LLMR_WRITE_GOLDEN=1 to write the files anew, and read the difference before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "golden"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are, so that a reviewer reads them as they are."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def assert_golden(name: str, made: Any) -> None:
    path = FOLDER / f"{name}.yaml"
    if os.environ.get("LLMR_WRITE_GOLDEN"):
        text = yaml.dump(made, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path} is missing: run with LLMR_WRITE_GOLDEN=1 and read it"
    assert made == yaml.safe_load(path.read_text(encoding="utf-8"))
