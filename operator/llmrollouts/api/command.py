"""Commands of people: the value of the annotation ``llmrollouts.dev/command``.

The form is ``verb[:revision][/nonce]``: ``pause``, ``promote:7bd4kzq2hx`` or
``rollback/9f3c``. The nonce makes a repeated command a new value (an annotation that is set to the
value that it already has changes nothing); the CLI adds it. This module reads and writes the text;
whether a command may be executed is decided by the state machine alone. Called by
controller/observe, rollout/ and the CLI.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast, get_args

Verb: TypeAlias = Literal[
    "promote", "promote-full", "rollback", "pause", "resume", "retry", "skip", "refresh"
]
VERBS: Final[tuple[Verb, ...]] = get_args(Verb)

MEANINGS: Final[Mapping[Verb, str]] = {
    "promote": (
        "finish the running or held step at once and go on with the next; after the last one, "
        "promote"
    ),
    "promote-full": (
        "no more steps: all users to the revision as soon as its workers can carry them; the way "
        "out when the stable revision is the bad one"
    ),
    "rollback": "everyone back to the stable revision, or to the stored revision that is named",
    "pause": "stop the step's clock; the share stays",
    "resume": "let the step's clock run again",
    "retry": "a new attempt with a revision that was rejected",
    "skip": "leave the running step out",
    "refresh": "read the references of the spec again, as a new revision",
}

# These give a revision more traffic, so they must say which one they mean: a command typed for
# one canary may not move another that has taken its place in the meantime.
NEEDS_REVISION: Final[frozenset[Verb]] = frozenset({"promote", "promote-full", "retry", "skip"})
TAKES_REVISION: Final[frozenset[Verb]] = NEEDS_REVISION | {"rollback"}

MAX_LENGTH: Final = 128
_COMMAND = re.compile(r"([a-z-]+)(?::([a-z0-9]{1,63}))?(?:/([A-Za-z0-9._-]{1,32}))?")
_FORM: Final = "a command is verb[:revision][/nonce], such as pause or promote:7bd4kzq2hx"


@dataclass(frozen=True, slots=True)
class Command:
    """One command; ``MEANINGS`` says what each verb does."""

    verb: Verb
    revision: str | None = None
    nonce: str | None = None

    def __str__(self) -> str:
        revision = f":{self.revision}" if self.revision else ""
        nonce = f"/{self.nonce}" if self.nonce else ""
        return f"{self.verb}{revision}{nonce}"


def parse_command(text: str) -> Command:
    """Read an annotation's value. Raises ValueError with a message for people.

    The text may come from anybody who can edit the resource: it is bounded, and the message
    repeats at most its first 40 characters.
    """
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    match = _COMMAND.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        raise ValueError(f"{shown!r} is no command: {_FORM}")
    verb, revision, nonce = match.groups()
    if verb not in VERBS:
        raise ValueError(f"{verb[:40]!r} is no command: the verbs are {', '.join(VERBS)}")
    command = Command(cast(Verb, verb), revision, nonce)
    if revision is None and command.verb in NEEDS_REVISION:
        raise ValueError(
            f"{verb} must name the revision that it is meant for: write {verb}:<revision>; "
            "`kubectl llm status` shows the revisions"
        )
    if revision is not None and command.verb not in TAKES_REVISION:
        raise ValueError(f"{verb} takes no revision: write {verb}")
    return command
