"""`kubectl llm replay` and `plan`: files in, one verdict or one clear sentence out."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from llmrollouts.analysis.trace import Trace
from llmrollouts.cli.failure import BadInput
from llmrollouts.cli.replay import say_evidence
from llmrollouts.cli.trace_file import LONGEST_LINE, read_recording
from tests.analysis.traces import make_trace
from tests.cli.conftest import Terminal

RECORD: Mapping[str, object] = {
    "t": 1.0, "revision": "stable", "replica": "a", "ttft": 0.1, "tpot": 0.01, "e2e": 1.0,
    "tokens": 91, "status": 200,
}  # fmt: skip
TWO_STEPS = """
strategy:
  steps:
    - canary: {share: 1%, duration: 1h}
    - canary: {share: 2%, duration: 1h}
"""
POLICY = """
objectives: {ttftP99: 1s}
strategy:
  steps:
    - canary: {share: 10%, duration: 30m}
"""


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


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY, encoding="utf-8")
    return file


Lines = Callable[..., Path]


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    """A trace of these lines, after one good one."""

    def write(*given: str) -> Path:
        file = tmp_path / "trace.jsonl"
        file.write_text("\n".join([json.dumps(RECORD), *given]) + "\n", encoding="utf-8")
        return file

    return write


def record(**changes: object) -> str:
    return json.dumps({**RECORD, **changes})


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


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (record(ttft=-1), "line 2: ttft"),
        (record(ttft="0.1"), "line 2: ttft"),
        (record(tokens=1.5), "line 2: tokens"),
        (record(status=999), "line 2: status"),
        (record(status=42), "line 2: status lies between 100 and 599"),
        (record(status=True), "line 2: status"),
        (record(revision="beta"), "line 2: revision: it is stable or canary, not 'beta'"),
        (record(t=-3), "line 2: t"),
        (record(t=None), "line 2: t"),
        (record(e2e=0.05), "line 2: the answer ends (e2e) before it begins (ttft)"),
        (record().replace("0.1,", "NaN,", 1), "line 2 is no JSON record"),
        ('{"t": 1.0}', "line 2: there is no field"),
        ("[1, 2]", "line 2: "),
        ('{"t": 1.0, ', "line 2 is no JSON record"),
        (record(note="x" * LONGEST_LINE), "line 2 is longer than"),
        (record(**{f"column{i}": i for i in range(1_000_000)}), "line 2 is longer than"),
        ("\n\n" + record(ttft=-1), "line 4: ttft"),
        ("\n" + record(t=100.0) + "\n" + record(t=39.0), "line 4: it arrived 61 s before"),
    ],
)
def test_a_bad_record_is_named_by_its_line(
    bad: str, said: str, lines: Lines, policy: Path, terminal: Terminal
) -> None:
    assert terminal.type("replay", str(lines(bad)), "--policy", str(policy)) == 2
    assert terminal.err.startswith(said)


def test_empty_missing_and_one_sided_traces_are_refused(
    tmp_path: Path, policy: Path, lines: Lines, terminal: Terminal
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n", encoding="utf-8")
    for path, said in (
        (empty, "holds no records"),
        (tmp_path / "none.jsonl", "cannot be read"),
        (tmp_path, "cannot be read"),
        (lines(), "holds no request of the canary"),
    ):
        assert terminal.type("replay", str(path), "--policy", str(policy)) == 2
        assert said in terminal.err


def test_binary_garbage_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "garbage.jsonl"
    file.write_bytes(np.random.default_rng(1).bytes(300_000))
    with pytest.raises(BadInput, match=r"line \d+"):
        read_recording(file)


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("objectives: {margin: -5%}", "a margin is a percentage that is not negative"),
        ("objectives: {ttftP99: 0.05ms}", "the smallest that is measured"),
        ("objectives: {ttftP99: 30s, e2eP99: 2s}", "no answer ends before it begins"),
        ("objectives: {margin: 30%}", "promotionMargin lies above margin"),
        ("objectives: {speed: 1}", "objectives.speed"),
        ("metrics: {}", "metrics is no part of a policy"),
        ("[1]", "holds no policy"),
        ("{", "neither YAML nor JSON"),
        ("kind: Deployment\nspec: {}", "not an LLMDeployment"),
        ("kind: LLMDeployment", "has no spec"),
        ("strategy: {steps: [{shadow: {share: 5%, duration: 1h}}]}", "this policy has 0"),
        (
            TWO_STEPS,
            "this policy has 2",
        ),
        ("strategy: {steps: [{canary: {share: 1%, duration: soon}}]}", "strategy.steps[0]"),
    ],
)
def test_a_bad_policy_is_one_clear_sentence(
    text: str, said: str, tmp_path: Path, lines: Lines, terminal: Terminal
) -> None:
    policy = tmp_path / "bad.yaml"
    policy.write_text(text, encoding="utf-8")
    assert terminal.type("replay", str(lines()), "--policy", str(policy)) == 2
    assert said in terminal.err
    assert "Traceback" not in terminal.err


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
    ("text", "said"),
    [
        ("", "is empty"),
        ("objectives: []\n", "objectives: this holds fields of its own"),
        ("strategy: x\n", "strategy: this holds fields of its own"),
        ("objectives: {ttft: 1ms}\n", "objectives.ttft: there is no field of this name"),
        (
            "strategy: {steps: [{canary: {share: half, duration: 1m}}]}\n",
            "share: the share of a step is above 0% and at most 100%",
        ),
        (
            "strategy: {steps: [{canary: {share: 0.5, duration: 1m}}]}\n",
            "share: this is a text: put it in quotes",
        ),
        ("a: [b\n", "(line 2)"),
    ],
)
def test_a_policy_is_refused_in_words_of_its_writer(
    text: str, said: str, tmp_path: Path, lines: Lines, terminal: Terminal
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text, encoding="utf-8")
    assert terminal.type("replay", str(lines()), "--policy", str(file)) == 2
    assert said in terminal.err


def test_a_value_of_the_wrong_kind_is_told_without_words_of_the_parser(
    lines: Lines, policy: Path, terminal: Terminal
) -> None:
    for bad, said in (
        (record(ttft=-1), "line 2: ttft: expected: number from 0 on"),
        (record(ttft="0.1"), "line 2: ttft: expected: number or null, found: text"),
        (record(tokens=1.5), "line 2: tokens: expected: whole number or null, found: number"),
        (record(status=999), "line 2: status: expected: whole number up to 599"),
    ):
        assert terminal.type("replay", str(lines(bad)), "--policy", str(policy)) == 2
        assert terminal.err.startswith(said)


def test_only_a_line_with_nan_is_told_about_nan(
    lines: Lines, policy: Path, terminal: Terminal
) -> None:
    terminal.type(
        "replay", str(lines(record().replace("0.1,", "NaN,", 1))), "--policy", str(policy)
    )
    assert "NaN and Infinity are no JSON" in terminal.err
    terminal.type("replay", str(lines("hello")), "--policy", str(policy))
    assert "NaN" not in terminal.err


def test_a_compressed_trace_is_said_to_be_one(
    tmp_path: Path, policy: Path, terminal: Terminal
) -> None:
    file = tmp_path / "trace.jsonl.gz"
    file.write_bytes(gzip.compress(record().encode(), mtime=0))
    assert terminal.type("replay", str(file), "--policy", str(policy)) == 2
    assert "compressed: unzip it" in terminal.err


@pytest.mark.parametrize(
    ("value", "said"), [(0.42, "0.42"), (930.4, "930"), (13_950.0, "14,000"), (3e9, "3e+09")]
)
def test_evidence_is_written_as_people_write_numbers(value: float, said: str) -> None:
    assert say_evidence(value) == said
