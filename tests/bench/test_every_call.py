"""The series of every error at every call, in small: it can tell a wrong end from the right one."""

from __future__ import annotations

import asyncio

from bench.every_call import Trial, attempt, tell_cleanly
from tests.fakes.kube_faults import Fault


def test_an_end_that_differs_is_told_and_the_right_one_is_not() -> None:
    calls, end = asyncio.run(tell_cleanly("roll_back"))
    write = next(call for call in reversed(calls) if call.is_write)
    trial = Trial("roll_back", write, Fault.ANSWER_LOST)
    assert attempt({"roll_back": end}, trial) is None
    told = attempt({"roll_back": {**end, "phase": "Serving"}}, trial)
    assert told is not None
    assert "ANSWER_LOST at call" in told
