"""Commands: what is read, what is refused, and that messages say how to mend it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrollouts.api.command import (
    MAX_LENGTH,
    MEANINGS,
    NEEDS_REVISION,
    TAKES_REVISION,
    VERBS,
    Command,
    parse_command,
)

REVISION = "7bd4kzq2hx"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("pause", Command("pause")),
        ("rollback", Command("rollback")),
        ("rollback/9f3c", Command("rollback", None, "9f3c")),
        (f"rollback:{REVISION}", Command("rollback", REVISION)),
        (f"promote:{REVISION}/a.b_C-1", Command("promote", REVISION, "a.b_C-1")),
        (f"promote-full:{REVISION}", Command("promote-full", REVISION)),
        ("refresh/2026-11-22T21.15", Command("refresh", None, "2026-11-22T21.15")),
    ],
)
def test_reads_a_command(text: str, command: Command) -> None:
    assert parse_command(text) == command
    assert str(command) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a command is verb[:revision][/nonce]"),
        ("Promote", "a command is verb"),
        ("promote:", "a command is verb"),
        ("pause/", "a command is verb"),
        ("pause\n", "a command is verb"),
        ("pause now", "a command is verb"),
        ("promote:../../x", "a command is verb"),
        ("abort", "the verbs are promote, promote-full, rollback"),
        ("promote", "write promote:<revision>"),
        ("skip/1", "write skip:<revision>"),
        (f"pause:{REVISION}", "pause takes no revision: write pause"),
    ],
)
def test_refuses_with_a_message_that_says_how_to_mend(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        parse_command(text)


def test_r26_a_poisoned_annotation_is_an_error_of_bounded_length() -> None:
    with pytest.raises(ValueError, match="is no command") as refused:
        parse_command("promote:" + "x" * 200_000)
    assert len(str(refused.value)) < 200
    with pytest.raises(ValueError, match="is no command") as refused:
        parse_command("x" * MAX_LENGTH)
    assert len(str(refused.value)) < 400


@given(st.text(max_size=2 * MAX_LENGTH))
def test_any_text_is_either_a_command_or_a_value_error(text: str) -> None:
    try:
        command = parse_command(text)
    except ValueError:
        return
    assert str(command) == text


def test_every_verb_is_explained_and_what_needs_a_revision_takes_one() -> None:
    assert set(MEANINGS) == set(VERBS)
    assert NEEDS_REVISION < TAKES_REVISION < set(VERBS)
