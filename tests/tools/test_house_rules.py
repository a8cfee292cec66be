"""Each house rule finds what it is for, and nothing in a clean tree."""

from __future__ import annotations

import pytest

from tools.checks.rules import RULES, Rule, Tree
from tools.checks.rules import every_link_in_the_docs_leads_somewhere as links
from tools.checks.rules import every_module_says_what_it_does as docstrings
from tools.checks.rules import every_reason_is_documented as reasons
from tools.checks.rules import no_binaries as binaries
from tools.checks.rules import no_long_modules as lengths
from tools.checks.rules import no_machine_paths as machine_paths
from tools.checks.rules import no_package_in_operator as shadowing
from tools.checks.rules import no_vague_modules as names
from tools.checks.rules import nothing_unfinished as unfinished

REASONS = (
    'class Reason:\n    SERVING = "Serving", "It serves."\n    LONG = (\n        "Long", "x")\n'
)
CLEAN = {
    "operator/llmrollouts/api/reasons.py": f'"""Reasons."""\n{REASONS}',
    "operator/llmrollouts/rollout/plan.py": '"""Decides."""\nreason="Serving"\n',
    "docs/api-reference.md": "`Serving` `Long` see [it](../README.md) and [more](runbooks/)\n",
    "docs/runbooks/bug.md": "Mounted at /etc/llmrollouts, workspace/work, ~/work, $HOME/work.\n",
    "README.md": "[docs](docs/api-reference.md#reasons) [out](https://example.org/x)\n",
}
BROKEN: list[tuple[Rule, str, str, str]] = [
    (machine_paths, "e2e/x.py", 'CACHE = "/ro' + 'ot/.cache"', "e2e/x.py:1"),
    (machine_paths, "docs/x.md", "see /wo" + "rk/main", "docs/x.md:1"),
    (machine_paths, "docs/x.md", "see /ho" + "me/eve/main", "docs/x.md:1"),
    (unfinished, "bench/x.py", "a = 1\n# TO" + "DO: later", "bench/x.py:2"),
    (shadowing, "operator/__init__.py", "", "operator/__init__.py"),
    (lengths, "tests/x.py", "a = 1\n" * 401, "tests/x.py:401"),
    (docstrings, "operator/llmrollouts/x.py", "import os\n", "operator/llmrollouts/x.py:1"),
    (names, "e2e/helpers.py", "", "e2e/helpers.py:1"),
    (binaries, "images/pause", "\0", "images/pause:1"),
    (reasons, "docs/api-reference.md", "`Serving`", "Long is not documented"),
    (reasons, "operator/llmrollouts/x.py", 'reason="Invented"', "Invented stands not in"),
    (links, "docs/x.md", "[y](y.md)", "docs/x.md:1"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.__name__)
def test_clean_tree_has_no_problem(rule: Rule) -> None:
    assert list(rule(CLEAN)) == []


@pytest.mark.parametrize(("rule", "path", "text", "said"), BROKEN)
def test_broken_rule_is_found_where_it_is_broken(
    rule: Rule, path: str, text: str, said: str
) -> None:
    tree: Tree = {**CLEAN, path: text}
    [problem] = list(rule(tree))
    assert said in problem


def test_a_check_that_finds_no_reasons_says_so() -> None:
    assert list(reasons({}))


def test_every_rule_is_tried() -> None:
    assert {rule for rule, *_ in BROKEN} == set(RULES)
