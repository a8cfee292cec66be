"""Errors tell a person what is wrong and what to do."""

from __future__ import annotations

import sys

import pytest

from e2e.cluster.steps import CannotContinueError, run, step, succeeds, wait_until


def test_a_missing_program_names_the_command_that_installs_it() -> None:
    with pytest.raises(CannotContinueError, match="make setup"):
        run(["no-such-program-here"])


def test_a_failing_program_is_quoted() -> None:
    with pytest.raises(CannotContinueError, match=r"failed \(3\): the reason"):
        run([sys.executable, "-c", "import sys; sys.stderr.write('the reason'); sys.exit(3)"])


def test_a_program_that_hangs_is_given_up() -> None:
    with pytest.raises(CannotContinueError, match="No answer within 0 s"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.3)


def test_success_is_told_from_failure() -> None:
    assert succeeds([sys.executable, "-c", ""])
    assert not succeeds([sys.executable, "-c", "raise SystemExit(1)"])
    assert not succeeds(["no-such-program-here"])


def test_a_step_tells_its_time_and_its_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with step("Counting"):
        pass
    assert capsys.readouterr().err == "  Counting ... 0.0 s\n"
    with pytest.raises(ValueError, match="no"), step("Breaking"):
        raise ValueError("no")
    assert capsys.readouterr().err == "  Breaking ... failed after 0.0 s\n"


def test_waiting_ends_with_the_first_yes_or_with_the_time() -> None:
    answers = iter([False, False, True])
    assert wait_until(lambda: next(answers), within=5, every=0.01)
    assert not wait_until(lambda: False, within=0.05, every=0.01)
