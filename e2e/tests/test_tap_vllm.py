"""The tap inside real vLLM, in a real pod: every path and every way to end, as docs/worker-tap.md
says. Times are not judged here: vLLM shares two cores with everything else."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import urllib3

from e2e.environment import build_images
from e2e.harness.kube import eventually
from e2e.harness.scenario import Chat
from e2e.tests.test_vllm import RESOURCES, START

ENGINE_PORT, LAUNCHER_PORT = 8000, 8090
LAG = 5.0
QUERY = f"lags=ttft:{LAG};tpot:{LAG};e2e:{LAG};duration:{LAG};errors:{LAG}&reference=4"
TOKENS = 9
MESSAGES = [{"role": "user", "content": "hello"}]
USAGE = {"stream_options": {"include_usage": True}}
STREAM = {"stream": True}

# path, fields, whether it is a stream, whether vLLM tells how many tokens it had
ANSWERED: list[tuple[str, Mapping[str, Any], bool, bool]] = [
    ("chat/completions", {"messages": MESSAGES, "max_tokens": TOKENS, **STREAM}, True, False),
    (
        "chat/completions",
        {"messages": MESSAGES, "max_tokens": TOKENS, **STREAM, **USAGE},
        True,
        True,
    ),
    ("chat/completions", {"messages": MESSAGES, "max_tokens": TOKENS}, False, True),
    ("completions", {"prompt": "hello", "max_tokens": TOKENS, **STREAM}, True, False),
    ("completions", {"prompt": "hello", "max_tokens": TOKENS, **STREAM, **USAGE}, True, True),
    ("completions", {"prompt": ["hello", "you"], "max_tokens": TOKENS, **STREAM}, True, False),
    ("completions", {"prompt": "hello", "max_tokens": TOKENS}, False, True),
    ("responses", {"input": "hello", "max_output_tokens": TOKENS, **STREAM}, True, True),
    ("responses", {"input": "hello", "max_output_tokens": TOKENS}, False, True),
    ("messages", {"messages": MESSAGES, "max_tokens": TOKENS, **STREAM}, True, True),
    ("messages", {"messages": MESSAGES, "max_tokens": TOKENS}, False, True),
]


@dataclass(frozen=True)
class Worker:
    """One pod, reached directly, so that every request meets the same tap."""

    address: str

    def post(self, path: str, fields: Mapping[str, Any]) -> int:
        answer = urllib3.request(
            "POST",
            f"http://{self.address}:{ENGINE_PORT}/v1/{path}",
            json={"model": "chat", "temperature": 0, "ignore_eos": True, **fields},
            timeout=60.0,
            retries=False,
        )
        return answer.status

    def leave_after_the_first_part(self) -> None:
        connection = http.client.HTTPConnection(self.address, ENGINE_PORT, timeout=60)
        body = {"model": "chat", "prompt": "hello", "max_tokens": 480, "stream": True}
        headers = {"Content-Type": "application/json"}
        fields = json.dumps({**body, "ignore_eos": True})
        connection.request("POST", "/v1/completions", body=fields, headers=headers)
        assert connection.getresponse().readline()
        connection.close()

    def samples(self, query: str = "") -> Any:
        address = f"http://{self.address}:{LAUNCHER_PORT}/samples?{query}"
        answer = urllib3.request("GET", address, timeout=10.0, retries=False)
        assert answer.status == 200, answer.data
        return answer.json()


@pytest.mark.alone
@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_tap_measures_what_real_vllm_does(chat: Callable[..., Chat]) -> None:
    given = chat(
        image=build_images(["vllm-cpu"])["vllm-cpu"],
        replicas=1,
        resources=RESOURCES,
        extra_args=["--enforce-eager"],
    ).serving("v1", timeout=START)
    (pod,) = given.pods(given.stable)
    worker = Worker(pod["status"]["podIP"])
    begin = worker.samples()
    assert begin["tap"] is True
    assert begin["processes"] == 1
    assert begin["arrivals"] == {"live": 0, "mirrored": 0}, "warm-up and probes are not counted"

    for path, fields, _, _ in ANSWERED:
        assert worker.post(path, fields) == 200, path
    assert worker.post("completions", {"prompt": "hello", "max_tokens": 99_999}) == 400
    worker.leave_after_the_first_part()
    eventually("no request in flight", lambda: worker.samples()["in_flight"] == 0, 30)

    until = worker.samples()["now"] + LAG + 1.3
    eventually("every cohort closed", lambda: worker.samples()["now"] > until, 30)
    told = worker.samples(f"{QUERY}&since={begin['now']}&boot={begin['boot']}")
    streams = sum(stream for _, _, stream, _ in ANSWERED)
    assert told["arrivals"]["live"] == len(ANSWERED) + 2
    assert (told["lost"], told["cut"], told["in_flight"]) == (0, 0, 0)
    assert _outcomes(told) == (len(ANSWERED) + 2, 0, 1)
    assert _counted(told, "ttft", 4) == streams + 1, "the client that left had its first token"
    assert _counted(told, "duration", 4) == len(ANSWERED)
    assert _counted(told, "duration", 5) == 1, "the client that left"
    # Where vLLM says how many tokens it had, the tap says the same.
    assert dict(told["tokens"]).get(3, 0) >= sum(tells for _, _, _, tells in ANSWERED)
    assert sum(count for _, count in told["tokens"]) == len(ANSWERED)


def _outcomes(page: Any) -> tuple[int, ...]:
    return tuple(sum(row[place] for row in page["outcomes"]) for place in (2, 3, 4))


def _counted(page: Any, metric: str, place: int) -> int:
    """Requests of a metric in column ``place`` of its rows: 4 done, 5 left."""
    rows = [row for row in page["closed"] if row[0] == metric]
    return sum(count for row in rows for _, count in row[place])
