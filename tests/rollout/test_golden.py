"""Transcripts of whole rollouts, word by word.

A change of what the state machine does or says shows here as a difference that a reviewer can
read. Regenerate with ``LLMR_REGENERATE_GOLDEN=1`` and read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.rollout.scenarios import SCENARIOS

GOLDEN = Path(__file__).parent / "testdata"


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_whole_rollouts_read_as_agreed(name: str) -> None:
    world = SCENARIOS[name]()
    status = world.status
    told = "\n".join(
        [
            *world.lines,
            f"{world.stamp} . {status.phase}: {world.rename(status.message or '')}",
            *(
                f"{world.stamp} . {each.type}={each.status} {each.reason}: "
                f"{world.rename(each.message)}"
                for each in status.conditions
            ),
            "",
        ]
    )
    path = GOLDEN / f"{name}.golden"
    if os.environ.get("LLMR_REGENERATE_GOLDEN") == "1":
        path.write_text(told)
    assert told == path.read_text()
    assert world.failed == 0, "users got no answer"


def test_every_transcript_has_its_scenario() -> None:
    assert {path.stem for path in GOLDEN.glob("*.golden")} == set(SCENARIOS)
