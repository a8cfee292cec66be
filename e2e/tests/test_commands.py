"""The commands of an on-call engineer, as typed, and the ones that are refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.harness.kube import Kube
from e2e.harness.scenario import Chat, canary, shadow

STEPS = [shadow("20%", "10m"), canary("10%", "4s", 1), canary("50%", "10m")]


@pytest.mark.timeout(300)
def test_every_command_on_one_rollout(chat: Callable[..., Chat]) -> None:
    given = chat(steps=STEPS, rollback_window="10m").serving("v1")
    old = given.stable
    with given.traffic(rate=30):
        given.applied("v2")
        new = given.canary()
        given.in_step(0)
        given.command("pause")
        assert given.status["paused"]
        assert "paused" in given.command("skip", check=False)
        given.command("resume")
        assert not given.status["paused"]
        given.command("skip")
        given.sees("past the short step", lambda s: (s.get("step") or {}).get("index") == 2, 90)
        given.command("promote")
        given.promoted(new)

        shown = given.kube.llm("status", given.name, "-n", given.namespace).stdout
        assert new in shown
        assert old in shown
        listed = given.kube.llm("list", "-n", given.namespace, "-o", "json").stdout
        assert given.name in json.dumps(json.loads(listed))
        past = given.kube.llm("history", given.name, "-n", given.namespace).stdout
        assert new in past
        assert old in past
        given.command("rollback", "--to", old)
        given.back_on(old)


@pytest.mark.timeout(240)
def test_commands_that_are_refused_say_why(chat: Callable[..., Chat]) -> None:
    given = chat(steps=STEPS).serving("v1")
    given.applied("v2")
    given.canary()
    given.in_step(0)

    def refused(value: str) -> str:
        given.annotate(value)
        verdict = given.sees(
            f"{value} answered", lambda s: (s.get("command") or {}).get("value") == value and s
        )["command"]
        assert verdict["result"] == "Refused", verdict
        return str(verdict["message"])

    assert "canary" in refused("promote:nosuchrev0")
    assert "promote" in refused("explode")
    assert given.status["step"]["index"] == 0

    # The same command again is a new command: the annotation was removed in between.
    first = given.status["command"]["sequence"]
    refused("skip:nosuchrev0")
    time.sleep(1)
    refused("skip:nosuchrev0/again")
    assert given.status["command"]["sequence"] >= first + 2


@pytest.mark.timeout(240)
def test_a_command_in_the_applied_manifest_is_no_command(chat: Callable[..., Chat]) -> None:
    given = chat(steps=STEPS).serving("v1")
    given.applied("v2")
    given.in_step(0)
    manifest = given.manifest("v2")
    manifest["metadata"]["annotations"] = {"llmrollouts.dev/command": "skip"}
    given.kube.apply(manifest)
    time.sleep(4)
    status = given.status
    assert status["step"]["index"] == 0
    assert "manifest" in json.dumps(status.get("command", {})) + json.dumps(status["conditions"])


@pytest.mark.timeout(120)
def test_mistakes_at_the_command_line_are_answered_in_plain_words(
    kube: Kube, chat: Callable[..., Chat]
) -> None:
    given = chat().serving("v1")
    wrong = kube.llm("status", "caht", "-n", given.namespace, check=False)
    assert wrong.returncode != 0
    assert "chat" in wrong.stdout + wrong.stderr
    nothing = kube.llm("promote", given.name, "-n", given.namespace, check=False)
    assert nothing.returncode != 0
    assert "Traceback" not in nothing.stdout + nothing.stderr


@pytest.mark.timeout(300)
def test_of_two_commands_at_once_the_rollback_wins_and_both_are_answered(
    chat: Callable[..., Chat],
) -> None:
    given = chat(steps=[canary("50%", "20m", 1)], rollback_window="10m").serving("v1")
    old = given.stable
    given.applied("v2")
    given.canary()
    given.in_step(0)
    with given.traffic(rate=30) as load, ThreadPoolExecutor(2) as both:
        load.wait_for(60)
        promoted = both.submit(given.command, "promote", check=False)
        rolled_back = both.submit(given.command, "rollback", check=False)
        told = promoted.result(), rolled_back.result()
        # Whichever came first, and even if the promotion had begun: everyone is back.
        given.back_on(old)
        asked = time.time()
        load.wait_for(60)
        tally = load.stop()
    assert all("Traceback" not in each and each.strip() for each in told), told
    assert tally.between(asked).share(old) == 1
    assert not tally.failures, tally.explain()
