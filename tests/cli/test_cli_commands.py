"""Commands: what is written, what is waited for, how each ends, and with which exit code."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from llmrollouts.api.command import parse_command
from llmrollouts.api.manifest import Manifest
from llmrollouts.cli.failure import Failure, Forbidden
from tests.cli.conftest import (
    CANARY,
    COMMAND,
    STABLE,
    RecordedCluster,
    Terminal,
    answer,
    at,
    deployment,
)


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["promote", "chat"], f"promote:{CANARY}"),
        (["promote", "chat", "--full"], f"promote-full:{CANARY}"),
        (["promote", "chat", "--revision", "other"], "promote:other"),
        (["skip", "chat"], f"skip:{CANARY}"),
        (["retry", "chat"], f"retry:{CANARY}"),
        (["rollback", "chat"], "rollback"),
        (["rollback", "chat", "--to", STABLE], f"rollback:{STABLE}"),
        (["pause", "chat"], "pause"),
        (["resume", "chat"], "resume"),
        (["refresh", "chat"], "refresh"),
    ],
)
def test_command_is_written_with_revision_and_nonce(
    words: list[str], written: str, cluster: RecordedCluster, terminal: Terminal
) -> None:
    cluster.operator = answer()
    assert terminal.type(*words) == 0, terminal.err
    [value] = cluster.given
    assert re.fullmatch(re.escape(written) + "/[0-9a-f]{8}", value)
    parse_command(value)
    assert terminal.out.startswith("Done in ")


def test_the_same_command_again_is_another_value(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    cluster.operator = answer()
    terminal.type("pause", "chat")
    terminal.type("pause", "chat")
    assert len(set(cluster.given)) == 2


def test_refusal_is_told_and_ends_with_1(cluster: RecordedCluster, terminal: Terminal) -> None:
    cluster.operator = answer("Refused", "refused: no rollout is running")
    assert terminal.type("pause", "chat") == 1
    assert "refused: no rollout is running" in terminal.err
    assert terminal.type("pause", "chat", "-o", "json") == 1
    assert terminal.json()["result"] == "Refused"


def test_without_a_canary_promote_writes_nothing(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    cluster.deployments = [deployment(phase="Serving")]
    assert terminal.type("promote", "chat") == 1
    assert cluster.given == []
    assert "no rollout is running" in terminal.err


def test_retry_names_the_stored_revision_of_the_spec(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    cluster.deployments = [deployment(phase="Degraded")]
    cluster.operator = answer()
    assert terminal.type("retry", "chat") == 0
    assert cluster.given[0].startswith(f"retry:{CANARY}/")


def test_silent_operator_ends_with_3_and_says_when_it_was_last_seen(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    cluster.lists["leases"][0]["spec"]["renewTime"] = at(3600)
    assert terminal.type("pause", "chat", "--timeout", "5") == 3
    assert 5 <= terminal.clock.spent < 6
    assert "last renewed at 2026-11-22 02:00:00 UTC" in terminal.err
    assert "executed when the operator returns" in terminal.err


@pytest.mark.parametrize(
    ("leases", "said"),
    [
        ([], "No operator has ever led"),
        ([{"metadata": {"namespace": "x"}, "spec": {"holderIdentity": ""}}], "No operator leads"),
        (None, "The operator leads"),
    ],
)
def test_what_the_lease_tells(
    leases: list[Manifest] | None, said: str, cluster: RecordedCluster, terminal: Terminal
) -> None:
    if leases is not None:
        cluster.lists["leases"] = leases
    assert terminal.type("pause", "chat", "--timeout", "1") == 3
    assert said in terminal.err


def test_unreadable_lease_is_no_second_failure(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    cluster.failures["/leases"] = Forbidden("leases is forbidden")
    assert terminal.type("pause", "chat", "--timeout", "1") == 3
    assert "its Lease cannot be read (leases is forbidden)" in terminal.err


def test_no_wait_returns_at_once(cluster: RecordedCluster, terminal: Terminal) -> None:
    assert terminal.type("pause", "chat", "--no-wait") == 0
    assert terminal.clock.spent == 0
    assert "Not waiting" in terminal.out


def roll_back(cluster: RecordedCluster, terminal: Terminal, confirm_after: float) -> None:
    """An operator that decides at once, and gateways that confirm later."""
    done = answer(message=f"all users go back from {CANARY} to {STABLE}")

    def operator(manifest: Manifest, command: str) -> None:
        done(manifest, command)
        manifest["status"]["lastRollback"] = {
            "revision": CANARY,
            "to": STABLE,
            "reason": "CommandDone",
            "message": "a person said so",
            "requestedAt": at(0.15),
            "decidedAt": at(0.1),
        }

    def meanwhile() -> None:
        if terminal.clock.spent >= confirm_after:
            last = cluster.deployments[0]["status"]["lastRollback"]
            last["programmedAt"], last["lastCanaryRequestAt"] = at(-0.3), at(-0.25)

    cluster.operator = operator
    object.__setattr__(terminal.clock, "on_sleep", meanwhile)


def test_rollback_waits_for_the_gateways_and_tells_the_times(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    roll_back(cluster, terminal, confirm_after=0.4)
    assert terminal.type("rollback", "chat") == 0
    assert "Confirmed by every gateway 0.40 s after the command." in terminal.out
    assert "confirmed by every gateway after 0.45 s" in terminal.out
    assert "last canary request began after 0.40 s" in terminal.out


def test_rollback_that_no_gateway_confirms_ends_with_3(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    roll_back(cluster, terminal, confirm_after=1e9)
    assert terminal.type("rollback", "chat", "--timeout", "2") == 3
    assert "not every gateway confirmed" in terminal.err


def by_route(cluster: RecordedCluster) -> None:
    """The users' own gateway has the weights."""
    cluster.deployments[0]["spec"]["traffic"] = {
        "provider": "HTTPRoute",
        "httpRoute": {"name": "edge-chat"},
    }


def test_rollback_with_a_route_is_confirmed_by_the_route_and_not_by_gateways(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    by_route(cluster)
    roll_back(cluster, terminal, confirm_after=0.4)
    assert terminal.type("rollback", "chat") == 0
    assert "Confirmed by HTTPRoute edge-chat, read back, 0.40 s after the command" in terminal.out
    assert "confirmed by HTTPRoute edge-chat, read back, after 0.45 s" in terminal.out
    assert "gateway" not in terminal.out


def test_rollback_that_the_route_does_not_confirm_promises_no_time_to_live(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    by_route(cluster)
    roll_back(cluster, terminal, confirm_after=1e9)
    assert terminal.type("rollback", "chat", "--timeout", "2") == 3
    assert "HTTPRoute edge-chat did not read back with weight 0 within 2 s" in terminal.err
    assert "users may stay on the canary" in terminal.err
    assert "kubectl get httproute edge-chat -n prod" in terminal.err
    assert "12 s" not in terminal.err
    assert "component=gateway" not in terminal.err


def test_rollback_that_began_nothing_waits_for_no_gateway(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    cluster.operator = answer(message="rolled out step by step")
    assert terminal.type("rollback", "chat", "--to", "bcdf245678") == 0
    assert "Confirmed" not in terminal.out


def test_waiting_command_of_another_is_not_overwritten(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    cluster.deployments[0]["metadata"]["annotations"] = {COMMAND: "resume/1"}
    assert terminal.type("pause", "chat") == 1
    assert cluster.given == []
    assert "resume/1" in terminal.err


def test_rollback_overwrites_a_waiting_command(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    cluster.deployments[0]["metadata"]["annotations"] = {COMMAND: "promote-full:x/1"}
    cluster.operator = answer()
    assert terminal.type("rollback", "chat") == 0
    assert cluster.given[0].startswith("rollback/")


def test_write_that_lost_a_race_is_made_again(cluster: RecordedCluster, terminal: Terminal) -> None:
    cluster.operator = answer()
    cluster.races = 3
    assert terminal.type("pause", "chat") == 0
    assert len(cluster.given) == 1


def test_wrong_name_is_answered_with_similar_ones(terminal: Terminal) -> None:
    assert terminal.type("status", "chatt") == 1
    assert "Did you mean chat?" in terminal.err
    assert terminal.type("rollback", "quite-other") == 1
    assert "There are: chat" in terminal.err
    assert terminal.type("status", "chat", "-n", "nowhere") == 1
    assert "list -A" in terminal.err


def test_missing_permission_is_named(cluster: RecordedCluster, terminal: Terminal) -> None:
    cluster.failures["PATCH"] = Forbidden('User "eve" cannot patch resource "llmdeployments"')
    assert terminal.type("pause", "chat") == 1
    assert 'cannot patch resource "llmdeployments"' in terminal.err


def test_lists_that_may_not_be_read_are_left_out_and_named(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    cluster.failures["/controllerrevisions"] = Forbidden("no")
    cluster.failures["/events"] = Forbidden("no")
    assert terminal.type("status", "chat") == 0
    assert "you may not read them: stored revisions, Events" in terminal.out


def test_wrong_usage_ends_with_2(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.type("status") == 2
    assert terminal.type("launch", "chat") == 2
    assert terminal.type("pause", "chat", "--timeout", "0") == 2
    assert terminal.type("status", "chat", "--watch", "-o", "json") == 2
    assert "Missing argument" in capsys.readouterr().err


def test_watch_draws_again_and_survives_a_failure(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    rounds = 0

    def meanwhile() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            cluster.failures["/llmdeployments/"] = Failure("No cluster: it does not answer.")
        elif rounds == 2:
            cluster.failures.clear()
        else:
            raise KeyboardInterrupt

    object.__setattr__(terminal.clock, "on_sleep", meanwhile)
    assert terminal.type("status", "chat", "--watch") == 130
    assert rounds == 3
    assert CANARY in terminal.out


@pytest.mark.parametrize(
    "words",
    [
        ["status", ""],
        ["status", ".."],
        ["status", "chat", "-n", ""],
        ["rollback", "chat", "--to", ""],
        ["rollback", "chat", "--to", "Bad_Name/x"],
        ["promote", "chat", "--revision", ""],
    ],
)
def test_what_no_object_can_be_called_is_wrong_usage_and_gives_no_command(
    words: list[str], cluster: RecordedCluster, terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cluster.operator = answer()
    assert terminal.type(*words) == 2
    assert cluster.given == []
    assert "Usage: kubectl llm" in capsys.readouterr().err


def test_a_rollback_does_not_wait_for_what_only_computing_commands_need() -> None:
    code = (
        "import sys, llmrollouts.cli.main; "
        "print([m for m in ('numpy', 'msgspec', 'llmrollouts.analysis') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
