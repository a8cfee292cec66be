"""What a connection to a Prometheus may do, against servers that misbehave."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrollouts.api.reasons import Reason
from llmrollouts.metrics import prometheus as module
from llmrollouts.metrics.prometheus import Credentials, PrometheusClient, Question
from llmrollouts.metrics.prometheus_address import AllowedAddresses, Permit, parse_address
from llmrollouts.metrics.prometheus_answer import Unanswered
from tests.metrics.strange_server import StrangeServer

WORD = "s3cr3t-word"


@pytest.fixture
def strange() -> Iterator[StrangeServer]:
    server = StrangeServer()
    server.answer = (200, answer(1.0))
    yield server
    server.close()


@pytest.fixture
def client() -> Iterator[PrometheusClient]:
    made = PrometheusClient()
    yield made
    made.close()


def answer(value: object, at: float | None = None) -> bytes:
    sample = [time.time() if at is None else at, str(value)]
    result = [{"metric": {}, "value": sample}]
    return json.dumps({"status": "success", "data": {"result": result}}).encode()


def question(url: str, credentials: Credentials | None = None, *, seconds: float = 5.0) -> Question:
    permit = AllowedAddresses([url]).permit(url)
    assert permit is not None
    return Question(permit, credentials or Credentials(), ("vector(1)",), 60.0, seconds)


async def refuse(client: PrometheusClient, asked: Question) -> Unanswered:
    with pytest.raises(Unanswered) as caught:
        await client.ask(asked)
    assert WORD not in caught.value.message
    assert caught.value.__cause__ is None
    return caught.value


async def test_a_number_is_read(client: PrometheusClient, strange: StrangeServer) -> None:
    assert await client.ask(question(strange.url)) == (1.0,)
    assert strange.asked[0].startswith("/api/v1/query?query=vector")


async def test_a_path_of_the_address_is_kept(
    client: PrometheusClient, strange: StrangeServer
) -> None:
    await client.ask(question(f"{strange.url}/tenant/a/"))
    assert strange.asked[0].startswith("/tenant/a/api/v1/query?")


async def test_a_server_that_drips_is_cut_off_and_its_thread_comes_back(
    client: PrometheusClient, strange: StrangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "THREADS", 1)
    strange.drip = 0.05
    began = time.monotonic()
    error = await refuse(client, question(strange.url, seconds=0.5))
    assert error.reason is Reason.NOT_ANSWERED_IN_TIME
    assert "within 500ms" in error.message
    assert time.monotonic() - began < 1.5
    assert await asyncio.to_thread(strange.gone.wait, 5)
    strange.drip = None
    assert await client.ask(question(strange.url)) == (1.0,)


async def test_who_stops_waiting_cuts_the_connection(
    client: PrometheusClient, strange: StrangeServer
) -> None:
    strange.drip = 0.05
    waiting = asyncio.ensure_future(client.ask(question(strange.url, seconds=60.0)))
    while not strange.asked:
        await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(strange.gone.wait, 5)


async def test_the_event_loop_goes_on_while_a_thread_waits(
    client: PrometheusClient, strange: StrangeServer
) -> None:
    strange.delay = 0.5
    waiting = asyncio.ensure_future(client.ask(question(strange.url)))
    longest, last = 0.0, time.monotonic()
    while not waiting.done():
        await asyncio.sleep(0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert longest < 0.4


async def test_one_prometheus_that_hangs_leaves_threads_to_others(
    client: PrometheusClient, strange: StrangeServer
) -> None:
    hanging = StrangeServer()
    hanging.delay, hanging.answer = 2.0, (200, answer(1.0))
    url = f"http://localhost:{hanging.port}"
    waiting = [
        asyncio.ensure_future(client.ask(question(url, seconds=0.9)))
        for _ in range(3 * module.PER_HOST)
    ]
    await asyncio.sleep(0.1)
    began = time.monotonic()
    assert await client.ask(question(strange.url)) == (1.0,)
    assert time.monotonic() - began < 0.7
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(each, Unanswered) for each in answers)
    hanging.close()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<html>", Reason.UNUSABLE_ANSWER),
        (200, b"[]", Reason.UNUSABLE_ANSWER),
        (200, b'{"data": {}}', Reason.UNUSABLE_ANSWER),
        (200, b'{"data": null}', Reason.UNUSABLE_ANSWER),
        (200, b"[" * 100_000, Reason.UNUSABLE_ANSWER),
        (200, b"", Reason.UNUSABLE_ANSWER),
        (200, b" " * (2 << 20), Reason.UNUSABLE_ANSWER),
        (200, answer(1.0, at=1_000.0), Reason.STALE_ANSWER),
        (200, answer(1.0, at=time.time() + 10_000), Reason.STALE_ANSWER),
        (200, answer("NaN"), Reason.NOT_A_NUMBER),
        (204, b"", Reason.REQUEST_REFUSED),
        (400, b"s3cr3t-word", Reason.REQUEST_REFUSED),
        (400, b'{"error": "s3cr3t-word"}', Reason.REQUEST_REFUSED),
        (403, b"s3cr3t-word", Reason.REQUEST_REFUSED),
        (404, b"s3cr3t-word", Reason.REQUEST_REFUSED),
        (500, b"s3cr3t-word", Reason.REQUEST_REFUSED),
        (503, b'{"errorType": "timeout", "error": "s3cr3t-word"}', Reason.REQUEST_REFUSED),
    ],
    # The bodies hold the time: as names they would differ from one process to the next.
    ids=itertools.count(),
)
async def test_what_is_no_answer_is_an_error_without_a_word_of_it(
    client: PrometheusClient,
    strange: StrangeServer,
    status: int,
    body: bytes,
    reason: Reason,
) -> None:
    strange.answer = (status, body)
    error = await refuse(client, question(strange.url))
    assert error.reason is reason
    assert len(strange.asked) == 1  # and it is not asked again


async def test_what_prometheus_says_of_a_query_is_cut_to_one_plain_line(
    client: PrometheusClient, strange: StrangeServer
) -> None:
    told = "parse error \x1b[31m" + "x" * 1000 + "\ns3cr3t-word"
    strange.answer = (400, json.dumps({"errorType": "bad_data", "error": told}).encode())
    error = await refuse(client, question(strange.url))
    assert error.reason is Reason.QUERY_INVALID
    assert "parse error ?[31mxxx" in error.message
    assert len(error.message) < 600


async def test_a_name_that_leads_to_this_machine_is_not_asked(
    client: PrometheusClient, strange: StrangeServer
) -> None:
    """Allowed by its name, as ``prom.example`` would be that an attacker points to 127.0.0.1."""
    url = f"http://localhost:{strange.port}"
    permit = Permit(parse_address(url), url, internal=False)
    asked = Question(permit, Credentials(bearer=WORD), ("vector(1)",), 60.0, 5.0)
    error = await refuse(client, asked)
    assert error.reason is Reason.ADDRESS_NOT_ALLOWED
    assert error.lasting
    assert strange.asked == []


async def test_environment_and_netrc_are_not_looked_at(
    client: PrometheusClient,
    strange: StrangeServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {WORD}\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert await client.ask(question(strange.url)) == (1.0,)
    assert "Authorization" not in strange.headers[0]


async def test_nobody_there_is_an_error_that_says_so(client: PrometheusClient) -> None:
    gone = StrangeServer()
    gone.close()
    error = await refuse(client, question(gone.url, Credentials(bearer=WORD)))
    assert error.reason is Reason.NOT_REACHED
    assert "connection refused" in error.message


async def test_an_unknown_host_is_an_error_that_says_so(client: PrometheusClient) -> None:
    error = await refuse(client, question("http://no-such-host.invalid", Credentials(bearer=WORD)))
    assert error.reason in (Reason.NOT_REACHED, Reason.NOT_ANSWERED_IN_TIME)


@pytest.mark.parametrize(
    "credentials",
    [
        Credentials(authorities=WORD),
        Credentials(authorities=f"-----BEGIN CERTIFICATE-----\n{WORD}\n-----END CERTIFICATE-----"),
        Credentials(certificate=WORD, key=WORD),
    ],
    ids=["no PEM", "no certificate in the PEM", "no pair"],
)
async def test_a_secret_that_is_no_pem_is_an_error_without_its_text(
    client: PrometheusClient, credentials: Credentials
) -> None:
    error = await refuse(client, question("https://127.0.0.1:1", credentials))
    assert error.reason is Reason.SECRET_UNUSABLE


def test_credentials_are_never_printed() -> None:
    shown = repr(
        Credentials(bearer=WORD, basic=(WORD, WORD), authorities=WORD, certificate=WORD, key=WORD)
    )
    assert WORD not in shown


def test_the_library_is_not_loaded_before_the_first_question() -> None:
    code = (
        "import sys\n"
        "import llmrollouts.controller.prometheus_gates\n"
        "loaded = {'requests', 'prometheus_api_client'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
