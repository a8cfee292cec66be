"""`kubectl llm explain`: from status and the stored evidence to words, numbers and plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.replay import replay
from llmrollouts.api.manifest import Manifest
from llmrollouts.cli.failure import Forbidden, Missing
from llmrollouts.metrics.record import EvidenceRecord, PlaceboResult
from tests.analysis.traces import make_trace
from tests.cli.conftest import (
    CANARY,
    RecordedCluster,
    Terminal,
    TestClock,
    at,
    canary_status,
    deployment,
)

STAGE = f"{CANARY}/1/1-Canary-5000"


def stored(*, slow: float = 1.0, seconds: int = 120, **more: Any) -> dict[str, str]:
    """The data of the ConfigMap after so many seconds of a canary."""
    found = replay(
        make_trace(slow=slow, seconds=seconds), Policy(), level=0.002, ticks=1800, canary_workers=1
    )
    record = EvidenceRecord(
        STAGE, 0.002, "2026-11-22T02:59:55Z", found.stage, found.state,
        canary={"u1": "chat-c-0"}, control={"u2": "chat-s-0", "u3": "chat-s-1"}, **more,
    )  # fmt: skip
    return record.to_data()


@dataclass
class EvidenceCluster(RecordedCluster):
    """Also serves the ConfigMap with the evidence."""

    data: dict[str, str] | None = field(default=None)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Manifest:
        if path.endswith("/api/v1/namespaces/prod/configmaps/chat-evidence"):
            self._fail(path)
            if self.data is None:
                raise Missing('configmaps "chat-evidence" not found')
            return {"data": self.data}
        return super().get(path, query)


@pytest.fixture
def cluster() -> EvidenceCluster:
    gate = {
        "name": "latency",
        "verdict": "Passed",
        "reason": "NoHarmSeen",
        "message": "No harm was seen",
        "since": at(600),
        "updatedAt": at(5),
        "proof": "Collecting",
        "power": {
            "requestsPerSecond": "8.5",
            "finds": "+25% slower within 2 min",
            "message": "With 8.5 compared canary requests a second this step finds "
            "+25% slower within 2 min (95 of 100 times)",
        },
    }
    return EvidenceCluster(deployments=[deployment(**canary_status(gates=[gate]))])


@pytest.fixture
def terminal(cluster: EvidenceCluster) -> Terminal:
    return Terminal(cluster, TestClock())


def test_a_good_canary_is_explained_with_what_would_change_it(
    cluster: EvidenceCluster, terminal: Terminal
) -> None:
    cluster.data = stored()
    assert terminal.type("explain", "chat") == 0, terminal.err
    told = terminal.out
    assert "latency: Passed (NoHarmSeen)" in told
    assert f"Evidence of {CANARY}, attempt 1, step 2 (canary 0.5%), stored" in told
    assert "stored 2026-11-22 02:59:55 UTC" in told
    assert "Compared: 1 canary and 2 control workers" in told
    assert "A rollback needs evidence of" in told
    assert "more canary requests" in told
    assert "Time to first token" in told
    assert "Evidence against the canary" in told
    # The operator's own sentence, as in status and in Events.
    assert "With 8.5 compared canary requests a second this step finds +25% slower" in told


def test_without_the_tap_no_distribution_is_drawn_and_it_says_why(
    cluster: EvidenceCluster, terminal: Terminal
) -> None:
    cluster.data = stored(source="engine")
    assert terminal.type("explain", "chat") == 0, terminal.err
    assert "their distributions are not drawn" in " ".join(terminal.out.split())
    assert "Evidence against the canary" in terminal.out
    assert terminal.type("explain", "chat", "-o", "json") == 0, terminal.err
    assert '"source": "engine"' in terminal.out


def test_a_rollback_is_explained_as_final_for_the_attempt(
    cluster: EvidenceCluster, terminal: Terminal
) -> None:
    cluster.data = stored(slow=2.0)
    assert terminal.type("explain", "chat") == 0
    assert "The canary is worse than stable" in terminal.out
    assert "retry begins a new one" in terminal.out


def test_json_carries_the_numbers(cluster: EvidenceCluster, terminal: Terminal) -> None:
    cluster.data = stored(slow=2.0, placebo=PlaceboResult(8, 0), notes=("evidence was lost",))
    assert terminal.type("explain", "chat", "-o", "json") == 0
    found = terminal.json()
    assert found["stage"] == STAGE
    assert found["notes"] == ["evidence was lost"]
    assert found["placebo"] == {"stages": 8, "firings": 0}
    assert found["gates"][0]["verdict"] == "Passed"
    assert found["gates"][0]["power"]["requestsPerSecond"] == "8.5"
    judgement = found["judgement"]
    assert judgement["outcome"] == "RollBack"
    decisive = [m for m in judgement["metrics"] if m["evidence"] >= m["needed"]]
    assert decisive
    assert judgement["whatWouldChangeIt"]


def test_before_any_comparison_it_says_so(cluster: EvidenceCluster, terminal: Terminal) -> None:
    assert terminal.type("explain", "chat") == 0
    assert "nothing was compared yet" in terminal.out
    cluster.data = EvidenceRecord(STAGE, 0.002, "2026-11-22T02:59:55Z").to_data()
    assert terminal.type("explain", "chat") == 0
    assert "Stable is being measured first" in terminal.out
    assert terminal.type("explain", "chat", "--plot", "unused.png") == 1
    assert "nothing to draw" in terminal.err


def test_with_the_comparison_off_it_says_so(cluster: EvidenceCluster, terminal: Terminal) -> None:
    cluster.deployments[0]["spec"]["gates"] = {"latency": {"mode": "Off"}}
    assert terminal.type("explain", "chat") == 0
    assert "latencies are not compared: spec.gates.latency.mode is Off" in terminal.out


def test_evidence_that_cannot_be_read_is_named_and_status_still_shown(
    cluster: EvidenceCluster, terminal: Terminal
) -> None:
    cluster.data = {"evidence.json": "{}"}
    assert terminal.type("explain", "chat") == 0
    assert "cannot be read" in terminal.out
    assert "latency: Passed" in terminal.out
    cluster.failures = {"configmaps": Forbidden("You may not get here")}
    assert terminal.type("explain", "chat") == 0
    assert "may not be read" in terminal.out


def test_a_picture_is_written(cluster: EvidenceCluster, terminal: Terminal, tmp_path: Path) -> None:
    cluster.data = stored()
    picture = tmp_path / "why.png"
    assert terminal.type("explain", "chat", "--plot", str(picture)) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
