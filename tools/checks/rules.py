"""The rules: each takes all files (path -> text) and yields ``path:line: what is wrong``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

Tree: TypeAlias = Mapping[str, str]
Rule: TypeAlias = Callable[[Tree], Iterator[str]]

LONGEST_MODULE = 400
# Split, so that this file obeys its own rules.
_MACHINE_PATH = re.compile(
    r"(?<![\w.~$}/])/(?:" + "root" + r"|home/\w+|work|Users/\w+)(?=[/\s\"'`]|$)"
)
_UNFINISHED = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
# Where those words are data of others: pinned hashes, module sums.
_NOT_OURS = ("requirements", "go.sum", "LICENSE")


def _lines(tree: Tree, pattern: re.Pattern[str], what: str) -> Iterator[str]:
    for path, text in tree.items():
        if Path(path).name.startswith(_NOT_OURS):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                yield f"{path}:{number}: {what}: {line.strip()[:100]}"


def no_machine_paths(tree: Tree) -> Iterator[str]:
    """Nothing depends on the machine that it was written on."""
    yield from _lines(tree, _MACHINE_PATH, "a path of one machine")


def nothing_unfinished(tree: Tree) -> Iterator[str]:
    """Work that is left belongs into an issue."""
    yield from _lines(tree, _UNFINISHED, "unfinished work")


def no_package_in_operator(tree: Tree) -> Iterator[str]:
    """It would shadow the module ``operator`` of the standard library."""
    if "operator/__init__.py" in tree:
        yield "operator/__init__.py:1: remove it: it shadows Python's own module `operator`"


def no_long_modules(tree: Tree) -> Iterator[str]:
    """A module that one cannot read in one go holds more than one concept."""
    for path, text in tree.items():
        count = len(text.splitlines())
        if path.endswith(".py") and count > LONGEST_MODULE:
            yield f"{path}:{count}: {count} lines, at most {LONGEST_MODULE}: split it"


def every_module_says_what_it_does(tree: Tree) -> Iterator[str]:
    """What it decides, what it never does, who calls it."""
    for path, text in tree.items():
        if path.startswith("operator/") and path.endswith(".py") and text.strip():
            first = next(line for line in text.splitlines() if not line.startswith("#"))
            if not first.startswith('"""'):
                yield f"{path}:1: no module docstring"


def no_vague_modules(tree: Tree) -> Iterator[str]:
    """Modules are named by what they hold."""
    vague = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "manager.py", "base.py"}
    for path in tree:
        if Path(path).name in vague:
            yield f"{path}:1: a name that says nothing: call it by what it holds"


def no_binaries(tree: Tree) -> Iterator[str]:
    """What is built is built from sources."""
    for path, text in tree.items():
        if "\0" in text:
            yield f"{path}:1: no text: binaries are built, not committed"


def every_reason_is_documented(tree: Tree) -> Iterator[str]:
    """A reason that a user meets stands in the API reference, and none is made up in passing."""
    reasons = tree.get("operator/llmrollouts/api/reasons.py", "")
    reference = tree.get("docs/api-reference.md", "")
    listed = set(re.findall(r"^    [A-Z_]+ = (?:\(\s*)?\"([A-Za-z]+)\"", reasons, re.MULTILINE))
    if not listed:
        yield "operator/llmrollouts/api/reasons.py:1: no reasons found: the check looks wrongly"
    for reason in sorted(listed):
        if f"`{reason}`" not in reference:
            yield f"docs/api-reference.md:1: the reason {reason} is not documented"
    made_up = re.compile(r"\breason=\"([A-Z][A-Za-z]+)\"")
    for path, text in tree.items():
        if not path.startswith("operator/"):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for found in made_up.findall(line):
                if found not in listed:
                    yield f"{path}:{number}: the reason {found} stands not in api/reasons.py"


def every_link_in_the_docs_leads_somewhere(tree: Tree) -> Iterator[str]:
    """Relative links of Markdown files name files or folders that are there."""
    folders = {str(parent) for path in tree for parent in Path(path).parents}
    for path, text in tree.items():
        if not path.endswith(".md"):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", line):
                if re.match(r"[a-z]+:", target):
                    continue
                wanted = _resolve(Path(path).parent, target)
                if wanted not in tree and wanted not in folders:
                    yield f"{path}:{number}: the link leads nowhere: {target}"


def _resolve(folder: Path, target: str) -> str:
    parts: list[str] = []
    for part in (folder / target).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


RULES: tuple[Rule, ...] = (
    no_machine_paths,
    nothing_unfinished,
    no_package_in_operator,
    no_long_modules,
    every_module_says_what_it_does,
    no_vague_modules,
    no_binaries,
    every_reason_is_documented,
    every_link_in_the_docs_leads_somewhere,
)
