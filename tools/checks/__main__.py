"""Runs every house rule over the tracked files and prints what breaks one, a line each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.checks.rules import RULES, Tree

REPOSITORY = Path(__file__).resolve().parents[2]


def read_tree(root: Path) -> Tree:
    """Every file that git tracks, or would track, and that is text."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        check=True,
    ).stdout.decode()
    tree: dict[str, str] = {}
    for name in filter(None, listed.split("\0")):
        path = root / name
        if not path.is_file():
            continue  # deleted, not yet committed
        try:
            tree[name] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            tree[name] = "\0"  # no text: the rule about binaries names it
    return tree


def main() -> int:
    tree = read_tree(REPOSITORY)
    problems = [problem for rule in RULES for problem in rule(tree)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(RULES)} house rules, {len(tree)} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
