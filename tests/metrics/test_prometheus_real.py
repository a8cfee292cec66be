"""Gates from Prometheus against a real one: what counts as a number and what never does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmrollouts.api.reasons import Reason
from llmrollouts.metrics.prometheus import Credentials, PrometheusClient, Question
from llmrollouts.metrics.prometheus_address import AllowedAddresses
from llmrollouts.metrics.prometheus_answer import Unanswered
from tests.metrics.prometheus_process import Guard, Prometheus, start_prometheus
from tests.metrics.strange_server import StrangeServer
from tests.traffic.certificates import make_authority

pytestmark = pytest.mark.prometheus

PASSWORD = "correct horse"
PASSWORD_BCRYPT = "$2b$04$CVS66F1RTAX7oJvl/Ym1renSQ/0GgVIMNPnjXrXjcvfkCq2mNUyz."
PAGE = """
latency_seconds{revision="aaaa"} 0.2
latency_seconds{revision="bbbb"} 0.31
requests_total{revision="bbbb",pod="one"} 10
requests_total{revision="bbbb",pod="two"} 30
idle_total{revision="bbbb"} 0
bottomless{revision="bbbb"} +Inf
"""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with start_prometheus(tmp_path_factory.mktemp("prometheus")) as server:
        server.page.text = PAGE
        asyncio.run(until_scraped(server, 'latency_seconds{revision="bbbb"}', 0.31))
        yield server


@pytest.fixture
def strange(prometheus: Prometheus) -> Iterator[StrangeServer]:
    server = StrangeServer(prometheus.url)
    yield server
    server.close()


async def ask(
    url: str,
    *queries: str,
    allowed: str | None = None,
    credentials: Credentials | None = None,
    max_age: float = 60.0,
    seconds: float = 5.0,
) -> tuple[float, ...]:
    permit = AllowedAddresses([allowed or url]).permit(url)
    assert permit is not None
    client = PrometheusClient()
    try:
        return await client.ask(
            Question(permit, credentials or Credentials(), queries, max_age, seconds)
        )
    finally:
        client.close()


async def refused(url: str, *queries: str, **more: object) -> Unanswered:
    with pytest.raises(Unanswered) as caught:
        await ask(url, *queries, **more)  # type: ignore[arg-type]  # handed on as given
    return caught.value


async def until_scraped(server: Prometheus, query: str, value: float) -> None:
    end = time.monotonic() + 30
    while True:
        with contextlib.suppress(Unanswered):
            if await ask(server.url, query) == (value,):
                return
        assert time.monotonic() < end, "not scraped in time"
        await asyncio.sleep(0.2)


async def test_one_series_is_its_value(prometheus: Prometheus) -> None:
    assert await ask(prometheus.url, 'latency_seconds{revision="bbbb"}') == (0.31,)


async def test_several_queries_are_answered_in_order(prometheus: Prometheus) -> None:
    queries = ('latency_seconds{revision="bbbb"}', 'latency_seconds{revision="aaaa"}')
    assert await ask(prometheus.url, *queries) == (0.31, 0.2)


async def test_an_aggregation_and_a_scalar_are_numbers(prometheus: Prometheus) -> None:
    queries = ("sum by () (requests_total)", 'scalar(sum(requests_total{revision="bbbb"}))')
    assert await ask(prometheus.url, *queries) == (40.0, 40.0)


async def test_zero_divided_by_zero_is_an_error(prometheus: Prometheus) -> None:
    error = await refused(prometheus.url, "sum(idle_total) / sum(idle_total)")
    assert error.reason is Reason.NOT_A_NUMBER
    assert "NaN" in error.message


async def test_infinity_is_an_error(prometheus: Prometheus) -> None:
    for query in ("bottomless", "sum(requests_total) / sum(idle_total)", "-bottomless"):
        assert (await refused(prometheus.url, query)).reason is Reason.NOT_A_NUMBER


async def test_no_series_is_an_error_that_names_the_selector(prometheus: Prometheus) -> None:
    error = await refused(prometheus.url, 'latency_seconds{revision="cccc"}')
    assert error.reason is Reason.NO_SERIES
    assert 'latency_seconds{revision="cccc"}' in error.message


async def test_several_series_are_an_error(prometheus: Prometheus) -> None:
    error = await refused(prometheus.url, "requests_total")
    assert error.reason is Reason.SEVERAL_SERIES
    assert "2 series" in error.message


async def test_a_range_is_no_number(prometheus: Prometheus) -> None:
    error = await refused(prometheus.url, 'latency_seconds{revision="bbbb"}[1m]')
    assert error.reason is Reason.NOT_A_NUMBER


async def test_bad_promql_is_told_in_prometheus_own_words_and_lasts(prometheus: Prometheus) -> None:
    error = await refused(prometheus.url, "sum(latency_seconds")
    assert error.reason is Reason.QUERY_INVALID
    assert error.lasting
    assert "unclosed left parenthesis" in error.message


async def test_what_cannot_be_evaluated_tells_nothing_of_other_series(
    prometheus: Prometheus,
) -> None:
    error = await refused(prometheus.url, "requests_total * on (revision) requests_total")
    assert error.reason is Reason.REQUEST_REFUSED
    assert "422" in error.message
    assert "pod" not in error.message


async def test_data_of_a_dead_target_are_stale_although_a_rate_still_answers(
    tmp_path: Path,
) -> None:
    with start_prometheus(tmp_path) as server:
        server.page.text = "work_total 1\n"
        query = "avg_over_time(work_total[5m])"
        await until_scraped(server, query, 1.0)
        server.page.text = None
        stale = await until_refused(server, query, max_age=3.0)
        assert stale.reason is Reason.STALE_ANSWER
        assert "last 3s" in stale.message
        assert await ask(server.url, query, max_age=120.0) == (1.0,)
        # The plain metric ends with its target: Prometheus marks it as gone.
        assert (await refused(server.url, "work_total")).reason is Reason.NO_SERIES


async def until_refused(server: Prometheus, query: str, max_age: float) -> Unanswered:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            await ask(server.url, query, max_age=max_age)
        except Unanswered as error:
            return error
        await asyncio.sleep(0.2)
    raise AssertionError("it went on answering")


async def test_a_counter_that_may_be_absent_is_no_stale_data(prometheus: Prometheus) -> None:
    query = "(sum(failures_total) or vector(0)) / sum(requests_total)"
    assert await ask(prometheus.url, query) == (0.0,)


async def test_a_slow_prometheus_is_an_error_in_time(strange: StrangeServer) -> None:
    strange.delay = 30.0
    began = time.monotonic()
    error = await refused(strange.url, "vector(1)", seconds=1.0)
    assert error.reason is Reason.NOT_ANSWERED_IN_TIME
    assert time.monotonic() - began < 2.0


async def test_a_bearer_token_opens_the_way(strange: StrangeServer) -> None:
    strange.token = "tok-123"
    right, wrong = Credentials(bearer="tok-123"), Credentials(bearer="tok-666")
    assert await ask(strange.url, "vector(1)", credentials=right) == (1.0,)
    error = await refused(strange.url, "vector(1)", credentials=wrong)
    assert error.reason is Reason.REQUEST_REFUSED
    assert "401" in error.message
    assert "tok" not in f"{error!r}{error.message}{wrong!r}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, Path]]:
    folder = tmp_path_factory.mktemp("guarded")
    make_authority().issue(folder / "tls", "localhost")
    with start_prometheus(folder, Guard(folder / "tls", {"gate": PASSWORD_BCRYPT})) as server:
        yield server, folder / "tls"


def client_of(folder: Path, password: str = PASSWORD) -> Credentials:
    """With the certificate in ``folder`` and its authority."""
    return Credentials(
        basic=("gate", password),
        authorities=(folder / "ca.crt").read_text(encoding="utf-8"),
        certificate=(folder / "tls.crt").read_text(encoding="utf-8"),
        key=(folder / "tls.key").read_text(encoding="utf-8"),
    )


async def test_mutual_tls_with_basic_auth_opens_the_way(guarded: tuple[Prometheus, Path]) -> None:
    server, folder = guarded
    assert await ask(server.url, "vector(1)", credentials=client_of(folder)) == (1.0,)


async def test_a_wrong_password_is_refused(guarded: tuple[Prometheus, Path]) -> None:
    server, folder = guarded
    credentials = client_of(folder, "wrong staple")
    error = await refused(server.url, "vector(1)", credentials=credentials)
    assert error.reason is Reason.REQUEST_REFUSED
    assert "401" in error.message
    assert "staple" not in f"{error!r}{error.message}{credentials!r}"


async def test_without_a_client_certificate_there_is_no_answer(
    guarded: tuple[Prometheus, Path],
) -> None:
    server, folder = guarded
    credentials = replace(client_of(folder), certificate=None, key=None)
    error = await refused(server.url, "vector(1)", credentials=credentials)
    assert error.reason is Reason.NOT_REACHED
    assert "client certificate" in error.message


async def test_a_server_that_no_authority_vouches_for_is_not_asked(
    guarded: tuple[Prometheus, Path], tmp_path: Path
) -> None:
    server, folder = guarded
    make_authority().issue(tmp_path / "other", "localhost")
    others = client_of(tmp_path / "other").authorities
    for authorities in (others, None):  # None: the public ones
        credentials = replace(client_of(folder), authorities=authorities)
        error = await refused(server.url, "vector(1)", credentials=credentials)
        assert error.reason is Reason.NOT_REACHED
        assert "certificate" in error.message


async def test_a_certificate_of_another_name_is_not_accepted(
    guarded: tuple[Prometheus, Path],
) -> None:
    server, folder = guarded
    url = f"https://127.0.0.1:{server.port}"
    error = await refused(url, "vector(1)", credentials=client_of(folder))
    assert error.reason is Reason.NOT_REACHED
    assert "certificate" in error.message


async def test_plain_http_to_a_tls_port_is_an_error(guarded: tuple[Prometheus, Path]) -> None:
    server, _ = guarded
    url = f"http://localhost:{server.port}"
    assert (await refused(url, "vector(1)")).reason in (Reason.REQUEST_REFUSED, Reason.NOT_REACHED)


async def test_a_redirect_is_not_followed(strange: StrangeServer, prometheus: Prometheus) -> None:
    strange.redirect = f"{prometheus.url}/api/v1/query?query=vector(1)"
    error = await refused(strange.url, "vector(1)")
    assert error.reason is Reason.REQUEST_REFUSED
    assert "redirect" in error.message
    assert len(strange.asked) == 1
