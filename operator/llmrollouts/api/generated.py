"""Writes a generated file, or with ``--check`` compares it; shared by the generators of api/."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path


def keep_file(path: Path, text: str, command: str, arguments: Sequence[str]) -> int:
    """Write ``text`` to ``path``; with ``--check`` only compare. Returns the exit code."""
    if list(arguments) not in ([], ["--check"]):
        print(f"usage: {command} [--check]", file=sys.stderr)
        return 2
    if not arguments:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return 0
    found = path.read_text(encoding="utf-8") if path.exists() else ""
    if found == text:
        return 0
    difference = difflib.unified_diff(
        found.splitlines(), text.splitlines(), str(path), "generated", lineterm="", n=1
    )
    print("\n".join(list(difference)[:40]), file=sys.stderr)
    print(f"{path} differs from the models: run {command}", file=sys.stderr)
    return 1
