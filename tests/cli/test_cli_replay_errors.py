"""`kubectl llm replay` and bad files: each is refused in one clear sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from llmrollouts.cli.failure import BadInput
from llmrollouts.cli.trace_file import LONGEST_LINE, read_recording
from tests.cli.conftest import Lines, Terminal
from tests.cli.conftest import request_record as record

TWO_STEPS = """
strategy:
  steps:
    - canary: {share: 1%, duration: 1h}
    - canary: {share: 2%, duration: 1h}
"""


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
def test_a_bad_policy_is_one_clear_sentence(
    text: str, said: str, tmp_path: Path, lines: Lines, terminal: Terminal
) -> None:
    policy = tmp_path / "bad.yaml"
    policy.write_text(text, encoding="utf-8")
    assert terminal.type("replay", str(lines()), "--policy", str(policy)) == 2
    assert said in terminal.err
    assert "Traceback" not in terminal.err


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
