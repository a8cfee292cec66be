"""The hash of a build's inputs: what a cached result is named after.

Pure apart from reading the files named. Used for the Kubernetes binaries and for image tags: a
result with the right name is never built again, and a changed input gives another name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

LENGTH = 12
_IGNORED = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


def list_files(paths: Iterable[Path]) -> list[Path]:
    """The files named and all those below the folders named, caches left out, in stable order."""
    found: set[Path] = set()
    for path in paths:
        if path.is_dir():
            found.update(f for f in path.rglob("*") if f.is_file() and not _is_ignored(f, path))
        else:
            found.add(path)
    return sorted(found)


def _is_ignored(file: Path, root: Path) -> bool:
    parts = file.relative_to(root).parts
    return any(p in _IGNORED or p.endswith(".egg-info") for p in parts) or file.suffix == ".pyc"


def hash_inputs(root: Path, paths: Iterable[Path], *texts: str) -> str:
    """12 hex characters from the files' names below `root`, their contents and execute bits, and
    the texts. Times, owners and the place of `root` itself do not matter.

    Raises FileNotFoundError when a path does not exist: a hash of nothing would look like a match.
    """
    digest = hashlib.sha256()
    for text in texts:
        _add(digest, b"text", text.encode())
    for file in list_files(paths):
        executable = b"x" if file.stat().st_mode & 0o100 else b"-"
        _add(digest, str(file.relative_to(root)).encode(), executable + file.read_bytes())
    return digest.hexdigest()[:LENGTH]


def _add(digest: hashlib._Hash, name: bytes, content: bytes) -> None:
    # Lengths first, or two files could be mistaken for one with the seam elsewhere.
    digest.update(b"%d:%d:" % (len(name), len(content)))
    digest.update(name)
    digest.update(content)
