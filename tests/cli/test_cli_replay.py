"""`kubectl llm replay` and `plan`: files in, one verdict or one clear sentence out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from llmrollouts.analysis.trace import Trace
from llmrollouts.cli.replay import say_evidence
from llmrollouts.cli.trace_file import read_recording
from tests.analysis.traces import make_trace
from tests.cli.conftest import Lines, Terminal
from tests.cli.conftest import request_record as record


def write_trace(path: Path, trace: Trace, replicas: int = 1) -> Path:
    def number(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 6)

    lines = [
        json.dumps(
            {
                "t": round(float(trace.arrival[i]), 4),
                "revision": "canary" if trace.canary[i] else "stable",
                "replica": f"{'c' if trace.canary[i] else 's'}{i % replicas}",
                "ttft": number(float(trace.ttft[i])),
                "tpot": number(float(trace.tpot[i])),
                "e2e": number(float(trace.e2e[i])),
                "tokens": int(trace.tokens[i]),
                "status": int(trace.status[i]) or None,
            }
        )
        for i in range(len(trace))
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_slower_canary_is_reported_as_rolled_back(
    tmp_path: Path, policy: Path, terminal: Terminal
) -> None:
    trace = write_trace(tmp_path / "trace.jsonl", make_trace(slow=2.0, seconds=90))
    words = ["replay", str(trace), "--policy", str(policy)]
    assert terminal.type(*words, "-o", "json") == 0, terminal.err
    found = terminal.json()
    assert set(found) == {"verdict", "decidedAt", "metric", "samples", "evidence"}
    assert found["verdict"] == "RolledBack"
    assert 36 <= found["decidedAt"] <= 60
    assert found["metric"] in {"ttft", "tpot", "e2e"}
    assert found["samples"]["canary"] >= 20
    metrics = {m["metric"]: m for m in found["evidence"]["metrics"]}
    decisive = metrics[found["metric"]]
    assert decisive["evidence"] >= decisive["needed"]
    assert terminal.type(*words) == 0
    assert terminal.out.startswith("RolledBack at")
    assert "Evidence against the canary" in terminal.out


def test_a_good_canary_is_reported_as_promotable(
    tmp_path: Path, policy: Path, terminal: Terminal
) -> None:
    trace = write_trace(
        tmp_path / "trace.jsonl", make_trace(rate=150, share=0.3, seconds=200), replicas=3
    )
    assert terminal.type("replay", str(trace), "--policy", str(policy), "-o", "json") == 0
    found = terminal.json()
    assert found["verdict"] == "Promotable"
    assert found["decidedAt"] is not None
    assert found["metric"] is None
    assert all(line["accepted"] for line in found["evidence"]["proof"])
    # Three replicas of the canary: the margin of many.
    assert found["evidence"]["margin"] == pytest.approx(1.05)


def test_a_picture_is_written(tmp_path: Path, policy: Path, terminal: Terminal) -> None:
    trace = write_trace(tmp_path / "trace.jsonl", make_trace(slow=2.0, seconds=60))
    picture = tmp_path / "found.png"
    words = ["replay", str(trace), "--policy", str(policy), "--plot", str(picture)]
    assert terminal.type(*words) == 0, terminal.err
    assert picture.read_bytes().startswith(b"\x89PNG")
    words[-1] = str(tmp_path / "no" / "folder.png")
    assert terminal.type(*words) == 1
    assert "cannot be written" in terminal.err


def test_the_workers_of_the_canary_are_numbered_over_the_whole_file(tmp_path: Path) -> None:
    trace = make_trace(rate=200, share=0.5, seconds=200, lead=0)
    file = write_trace(tmp_path / "trace.jsonl", trace, replicas=3)
    assert file.stat().st_size > 4 * 1024 * 1024, "several blocks are read"
    found = read_recording(file)
    assert found.canary_replicas == 3
    assert found.trace.worker is not None
    numbers = found.trace.worker[found.trace.canary]
    rows = np.flatnonzero(found.trace.canary) % 3
    assert set(zip(rows.tolist(), numbers.tolist(), strict=True)) == {
        (int(row), int(numbers[rows == row][0])) for row in range(3)
    }
    assert len(set(numbers.tolist())) == 3


def test_records_within_a_minute_of_disorder_are_sorted(lines: Lines) -> None:
    found = read_recording(lines(record(t=50.0), record(t=20.0, revision="canary", replica="x")))
    assert found.trace.arrival.tolist() == [1.0, 20.0, 50.0]
    assert found.trace.canary.tolist() == [False, True, False]
    assert found.canary_replicas == 1
    assert found.trace.end == pytest.approx(51.0)


def test_a_line_without_an_end_and_one_across_two_blocks_are_read(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    text = "\n".join(record(t=float(i // 100)) for i in range(50_000))
    file.write_text(text, encoding="utf-8")
    assert len(text) > 4 * 1024 * 1024
    assert len(read_recording(file).trace) == 50_000


def test_a_whole_manifest_is_a_policy_too(tmp_path: Path, terminal: Terminal, lines: Lines) -> None:
    policy = tmp_path / "chat.yaml"
    policy.write_text(
        "apiVersion: llmrollouts.dev/v1alpha1\nkind: LLMDeployment\nmetadata: {name: chat}\n"
        "spec:\n  replicas: 4\n  revision: {model: {uri: hf://a/b}}\n"
        "  strategy: {steps: [{canary: {share: 5%, duration: 10m}}]}\n",
        encoding="utf-8",
    )
    assert terminal.type("replay", str(lines()), "--policy", str(policy)) == 2
    assert "holds no request of the canary" in terminal.err


def test_plan_says_what_each_step_finds_and_warns(tmp_path: Path, terminal: Terminal) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(
        "strategy:\n  matchLoad: false\n  steps:\n"
        "    - shadow: {share: 25%, duration: 1h}\n    - canary: {share: 0.5%, duration: 30m}\n",
        encoding="utf-8",
    )
    words = ["plan", "-f", str(file), "--rate", "2"]
    assert terminal.type(*words, "-o", "json") == 0, terminal.err
    shadow, canary = terminal.json()["steps"]
    assert shadow["warning"] is None
    assert shadow["canaryRequestsPerSecond"] == pytest.approx(0.5)
    assert canary["canaryRequestsPerSecond"] == pytest.approx(0.01)
    assert "cannot find any slower revision" in canary["warning"]
    found = {line["regression"]: line for line in shadow["finds"]}
    assert found["4x"]["p95Seconds"] < found["+50%"]["p95Seconds"]
    assert found["4x"]["p95Requests"] == math.ceil(found["4x"]["p95Seconds"] * 0.5)
    assert terminal.type(*words) == 0
    assert "! this step cannot find any slower revision" in terminal.out


def test_plan_counts_mirrored_requests_of_a_matched_load(
    tmp_path: Path, terminal: Terminal
) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("strategy: {steps: [{canary: {share: 0.5%, duration: 30m}}]}", encoding="utf-8")
    assert terminal.type("plan", "-f", str(file), "--rate", "850") == 2
    assert "How many workers are there?" in terminal.err
    words = ["plan", "-f", str(file), "--rate", "850", "--replicas", "4", "-o", "json"]
    assert terminal.type(*words) == 0
    [step] = terminal.json()["steps"]
    assert step["canaryRequestsPerSecond"] == pytest.approx((850 - 4.25) / 4)
    assert step["canaryWorkers"] == 1


def untapped(tmp_path: Path, extra: str = "") -> str:
    """An LLMDeployment whose engines have no tap."""
    file = tmp_path / "untapped.yaml"
    file.write_text(
        "apiVersion: llmrollouts.dev/v1alpha1\nkind: LLMDeployment\nmetadata: {name: chat}\n"
        "spec:\n  replicas: 5\n"
        f"  revision: {{model: {{uri: hf://a/b}}, engine: {{tap: false{extra}}}}}\n"
        "  strategy: {steps: [{canary: {share: 0.5%, duration: 30m}},"
        " {canary: {share: 5%, duration: 30m}}, {canary: {share: 50%, duration: 30m}}]}\n",
        encoding="utf-8",
    )
    return str(file)


MEDIANS = ("--ttft", "95ms", "--tpot", "30ms")


def test_plan_asks_for_latencies_where_the_engines_have_no_tap(
    tmp_path: Path, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "-f", untapped(tmp_path), "--rate", "50"]
    assert terminal.type(*words) == 2
    assert "How fast is stable? Its engines have no tap" in terminal.err
    assert terminal.type(*words, "--ttft", "95ms") == 2
    assert terminal.type(*words, "--ttft", "soon", "--tpot", "1s") == 2
    assert "'soon' is no duration" in capsys.readouterr().err
    assert terminal.type(*words, "--ttft", "0s", "--tpot", "1s") == 2


def test_plan_without_the_tap_promises_only_what_crosses_a_bound_and_says_what_waits(
    tmp_path: Path, terminal: Terminal
) -> None:
    words = ["plan", "-f", untapped(tmp_path), "--rate", "50", *MEDIANS]
    assert terminal.type(*words, "-o", "json") == 0, terminal.err
    plan = terminal.json()
    first, second, third = plan["steps"]
    found = {line["regression"]: line["p95Seconds"] for line in first["finds"]}
    assert found["ttft 2x"] is None, "between 100 and 250 ms vLLM has no bound"
    assert found["ttft 4x"] < 30
    assert found["tpot 2x"] < 90
    assert found["20% errors"] < 30
    assert first["waits"] is None
    assert "so the 50% after it never follows by itself" in second["waits"]
    assert "so the promotion never follows by itself" in third["waits"]
    assert any("engine's own histograms" in note for note in plan["notes"])
    assert terminal.type(*words) == 0
    assert "! nothing is proven without the tap" in terminal.out
    assert "ttft 2x" in terminal.out


@pytest.mark.parametrize(
    "extra",
    [
        """, extraArgs: ["--custom-histogram-buckets", '{"time_to_first_token": BOUNDS}']""",
        """, extraArgs: ['--custom-histogram-buckets={"time_to_first_token": BOUNDS}']""",
    ],
)
def test_plan_knows_the_bounds_that_the_engine_was_given(
    extra: str, tmp_path: Path, terminal: Terminal
) -> None:
    bounds = str([round(0.01 * 1.1**number, 5) for number in range(80)])
    file = untapped(tmp_path, extra.replace("BOUNDS", bounds))
    words = ["plan", "-f", file, "--rate", "50", *MEDIANS, "-o", "json"]
    assert terminal.type(*words) == 0, terminal.err
    found = {line["regression"]: line for line in terminal.json()["steps"][0]["finds"]}
    assert found["ttft 2x"]["p95Seconds"] < 30


@pytest.mark.parametrize("bounds", ["[2, 1]", "[0, 1]", "7", '["x"]', "[1, "])
def test_plan_refuses_bounds_that_vllm_would_not_take(
    bounds: str, tmp_path: Path, terminal: Terminal
) -> None:
    extra = (
        f""", extraArgs: ["--custom-histogram-buckets", '{{"inter_token_latency": {bounds}}}']"""
    )
    words = ["plan", "-f", untapped(tmp_path, extra), "--rate", "50", *MEDIANS]
    assert terminal.type(*words) == 2
    assert "--custom-histogram-buckets" in terminal.err


def test_plan_takes_no_latencies_where_only_ratios_count(
    tmp_path: Path, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("objectives: {}", encoding="utf-8")
    words = ["plan", "-f", str(file), "--rate", "50", "--replicas", "4", *MEDIANS]
    assert terminal.type(*words) == 2
    assert "--ttft and --tpot are for engines without the tap" in capsys.readouterr().err


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "many"])
def test_plan_refuses_rates_that_are_none(rate: str, tmp_path: Path, terminal: Terminal) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("objectives: {}", encoding="utf-8")
    assert terminal.type("plan", "-f", str(file), "--rate", rate, "--replicas", "4") == 2


@pytest.mark.parametrize(
    ("value", "said"), [(0.42, "0.42"), (930.4, "930"), (13_950.0, "14,000"), (3e9, "3e+09")]
)
def test_evidence_is_written_as_people_write_numbers(value: float, said: str) -> None:
    assert say_evidence(value) == said
