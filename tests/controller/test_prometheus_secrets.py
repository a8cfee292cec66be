"""The credentials of gates from Prometheus: from which Secrets, and what of them is ever shown."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from llmrollouts.api.reasons import Reason
from llmrollouts.kube.port import SECRET
from tests.controller.prometheus_bench import KEY, Bench, make_gate, observe
from tests.fakes.kube_faults import Fault

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

WORD = "s3cr3t-word"


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    made.gates.stop()


BEARER = {"bearerTokenSecretKeyRef": {"name": "prom", "key": "token"}}


async def test_credentials_come_from_a_secret_of_the_same_namespace(bench: Bench) -> None:
    bench.put_secret("prom", token=f"{WORD}\n", user="me", word="x", ca="C", cert="D", key="K")
    auth = {
        "basicAuth": {
            "usernameSecretKeyRef": {"name": "prom", "key": "user"},
            "passwordSecretKeyRef": {"name": "prom", "key": "word"},
        },
        "tls": {
            "caSecretKeyRef": {"name": "prom", "key": "ca"},
            "certSecretKeyRef": {"name": "prom", "key": "cert"},
            "keySecretKeyRef": {"name": "prom", "key": "key"},
        },
    }
    bench.gates.judge(observe(make_gate(auth=BEARER), make_gate(name="other", auth=auth)))
    await asyncio.sleep(31)
    given = {bool(q.credentials.bearer): q.credentials for _, q in bench.prometheus.asked}
    assert given[True].bearer == WORD
    assert given[False].basic == ("me", "x")
    assert (given[False].authorities, given[False].certificate, given[False].key) == tuple("CDK")
    reads = [call for call in bench.kube.calls if call.kind == SECRET.kind]
    assert {(call.verb, call.namespace) for call in reads} == {("get", KEY.namespace)}
    assert len(reads) == 2


async def test_a_renewed_secret_is_used_at_the_next_question(bench: Bench) -> None:
    bench.put_secret("prom", token="one")
    bench.judge(make_gate(auth=BEARER))
    await asyncio.sleep(31)
    bench.put_secret("prom", token="two")
    await asyncio.sleep(30)
    assert [q.credentials.bearer for _, q in bench.prometheus.asked] == ["one", "two"]


def without_secret(bench: Bench) -> None:
    """There is none."""


def without_key(bench: Bench) -> None:
    bench.put_secret("prom", other=WORD)


def with_empty_key(bench: Bench) -> None:
    bench.put_secret("prom", token="")


def with_line_breaks(bench: Bench) -> None:
    bench.put_secret("prom", token=f"{WORD}\r\nX-Other: {WORD}")


def with_binary(bench: Bench) -> None:
    bench.put_secret("prom", token="x")
    bench.kube.edit(
        SECRET,
        KEY.namespace,
        "prom",
        lambda found: found["data"].update(token=base64.b64encode(b"\xff\xfe").decode()),
    )


def forbidden(bench: Bench) -> None:
    bench.put_secret("prom", token=WORD)
    bench.kube.faults.fail(Fault.FORBIDDEN, "get", SECRET.kind, times=99)


def away(bench: Bench) -> None:
    bench.put_secret("prom", token=WORD)
    bench.kube.faults.fail(Fault.TIMEOUT, "get", SECRET.kind, times=99)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (without_secret, Reason.SECRET_MISSING),
        (without_key, Reason.SECRET_MISSING),
        (with_empty_key, Reason.SECRET_UNUSABLE),
        (with_line_breaks, Reason.SECRET_UNUSABLE),
        (with_binary, Reason.SECRET_UNUSABLE),
        (forbidden, Reason.SECRET_FORBIDDEN),
        (away, Reason.SECRET_MISSING),
    ],
)
async def test_a_secret_that_cannot_be_used_is_an_error_without_its_text(
    bench: Bench, prepare: Callable[[Bench], None], reason: Reason
) -> None:
    prepare(bench)
    gate = make_gate(auth=BEARER, maxErrors=1)
    bench.judge(gate)
    await asyncio.sleep(31)
    found = bench.judge(gate)
    assert (found.verdict, found.reason) == ("Error", reason)
    assert "prom" in found.message
    assert WORD not in found.message
    assert bench.prometheus.asked == []
