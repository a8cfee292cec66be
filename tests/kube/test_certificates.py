"""The Secrets of the xDS port: made once, renewed in time, mended when broken, good for TLS."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from llmrollouts.kube.authority import Unusable, read_bundle, read_certificate, read_pair
from llmrollouts.kube.certificates import (
    CA_SECRET,
    GATEWAY_SECRET,
    XDS_SECRET,
    CertificateReport,
    ensure_certificates,
)
from llmrollouts.kube.client import KubeClient
from llmrollouts.kube.connection import connect
from llmrollouts.kube.port import SECRET, Conflict, Rejected, Transient
from tests.apiserver import ApiServer
from tests.fakes.kube import FakeKube
from tests.fakes.kube_faults import Fault

SPACE = "llm-rollouts-system"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALL = (CA_SECRET, XDS_SECRET, GATEWAY_SECRET)


async def ensure(kube: FakeKube, after: timedelta = timedelta()) -> CertificateReport:
    return await ensure_certificates(kube, kube, SPACE, NOW + after)


def data(kube: FakeKube, name: str) -> dict[str, bytes]:
    secret = kube.peek(SECRET, SPACE, name)
    assert secret is not None
    return {key: base64.b64decode(value) for key, value in secret["data"].items()}


def break_secret(kube: FakeKube, name: str, **values: Any) -> None:
    changes = {key.replace("_", "."): value for key, value in values.items()}
    kube.edit(SECRET, SPACE, name, lambda m: m["data"].update(changes))


async def test_made_when_missing_and_left_alone_afterwards() -> None:
    kube = FakeKube()
    first = await ensure(kube)
    assert first.written == ALL
    before = {name: data(kube, name) for name in ALL}
    second = await ensure(kube, timedelta(days=30))
    assert second.written == ()
    assert {name: data(kube, name) for name in ALL} == before
    assert first.due == second.due
    assert timedelta(days=59) < first.due - NOW < timedelta(days=61)


async def test_only_the_three_secrets_are_touched_and_none_is_listed() -> None:
    kube = FakeKube()
    await ensure(kube)
    await ensure(kube, timedelta(days=70))
    assert {call.name for call in kube.calls} == set(ALL)
    assert {call.verb for call in kube.calls} == {"get", "create", "replace"}


async def test_leaves_are_renewed_at_two_thirds_of_their_life_by_the_same_authority() -> None:
    kube = FakeKube()
    report = await ensure(kube)
    authority = data(kube, CA_SECRET)
    before = data(kube, XDS_SECRET)
    assert (await ensure(kube, report.due - NOW - timedelta(seconds=1))).written == ()
    renewed = await ensure(kube, report.due - NOW)
    assert renewed.written == (XDS_SECRET, GATEWAY_SECRET)
    assert data(kube, CA_SECRET) == authority
    after = data(kube, XDS_SECRET)
    assert after["tls.key"] != before["tls.key"]
    assert after["ca.crt"] == before["ca.crt"]
    end = read_certificate(after["tls.crt"]).not_valid_after_utc
    assert end > report.due + timedelta(days=89)


async def test_over_ten_years_both_ends_trust_each_other_at_every_moment() -> None:
    """Each end may still hold what it mounted a day ago, so yesterday's leaf must be good for
    today's bundle and the other way round, through every renewal of the authority."""
    kube = FakeKube()
    await ensure(kube)
    yesterday = {name: data(kube, name) for name in ALL}
    authorities = set()
    for day in range(1, 3650):
        moment = NOW + timedelta(days=day)
        await ensure(kube, timedelta(days=day))
        today = {name: data(kube, name) for name in ALL}
        # On quiet days only the calendar can spoil anything: a look each week will do.
        pairs = ((today, today), (yesterday, today), (today, yesterday))
        for one, other in pairs if today != yesterday or day % 7 == 0 else ():
            assert trusts(one[GATEWAY_SECRET], other[XDS_SECRET], moment)
            assert trusts(one[XDS_SECRET], other[GATEWAY_SECRET], moment)
        authorities.add(today[CA_SECRET]["tls.crt"])
        assert len(read_bundle(today[XDS_SECRET]["ca.crt"])) <= 2
        yesterday = today
    assert len(authorities) == 5


def trusts(truster: Mapping[str, bytes], shown: Mapping[str, bytes], moment: datetime) -> bool:
    leaf = read_certificate(shown["tls.crt"])
    return leaf.not_valid_before_utc <= moment < leaf.not_valid_after_utc and any(
        signed_by(leaf, authority) and moment < authority.not_valid_after_utc
        for authority in read_bundle(truster["ca.crt"])
    )


def signed_by(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    if leaf.issuer != authority.subject:
        return False
    leaf.verify_directly_issued_by(authority)
    return True


GARBAGE = base64.b64encode(b"garbage").decode()


@pytest.mark.parametrize("name", [XDS_SECRET, GATEWAY_SECRET])
@pytest.mark.parametrize(
    "broken",
    [
        {"tls_crt": GARBAGE},
        {"tls_key": GARBAGE},
        {"tls_crt": ""},
        {"tls_key": "not base64 at all!"},
        {"tls_key": None},
    ],
)
async def test_a_broken_leaf_is_replaced_with_a_warning(
    name: str, broken: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    kube = FakeKube()
    await ensure(kube)
    authority = data(kube, CA_SECRET)
    break_secret(kube, name, **broken)
    with caplog.at_level(logging.WARNING):
        assert (await ensure(kube)).written == (name,)
    assert [getattr(record, "secret", "") for record in caplog.records] == [name]
    assert data(kube, CA_SECRET) == authority
    read_pair(data(kube, name)["tls.crt"], data(kube, name)["tls.key"])
    assert (await ensure(kube)).written == ()


async def test_a_secret_without_data_is_filled_again() -> None:
    kube = FakeKube()
    await ensure(kube)
    for name in ALL:
        kube.edit(SECRET, SPACE, name, lambda m: m.pop("data"))
    assert (await ensure(kube)).written == ALL
    assert (await ensure(kube)).written == ()


async def test_the_ends_swapped_are_put_right() -> None:
    kube = FakeKube()
    await ensure(kube)
    ours, theirs = kube.peek(SECRET, SPACE, XDS_SECRET), kube.peek(SECRET, SPACE, GATEWAY_SECRET)
    assert ours is not None
    assert theirs is not None
    kube.edit(SECRET, SPACE, XDS_SECRET, lambda m: m.update(data=theirs["data"]))
    assert (await ensure(kube)).written == (XDS_SECRET,)


async def test_a_lost_authority_is_replaced_while_the_leaves_in_use_stay_trusted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kube = FakeKube()
    await ensure(kube)
    leaf, old = data(kube, XDS_SECRET)["tls.crt"], data(kube, XDS_SECRET)["ca.crt"]
    break_secret(kube, CA_SECRET, tls_key=GARBAGE)
    with caplog.at_level(logging.WARNING):
        assert (await ensure(kube)).written == ALL
    assert caplog.messages == ["Replaced the certificate authority"]
    assert data(kube, XDS_SECRET)["tls.crt"] == leaf
    for name in (XDS_SECRET, GATEWAY_SECRET):
        bundle = data(kube, name)["ca.crt"]
        assert bundle.endswith(old)
        assert len(read_bundle(bundle)) == 2
    assert (await ensure(kube, timedelta(hours=1))).written == ()


async def test_everything_expired_is_made_afresh() -> None:
    kube = FakeKube()
    await ensure(kube)
    assert (await ensure(kube, timedelta(days=3000))).written == ALL
    assert len(read_bundle(data(kube, XDS_SECRET)["ca.crt"])) == 1


async def test_keys_are_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    kube = FakeKube()
    with caplog.at_level(logging.DEBUG):
        await ensure(kube)
        key = data(kube, XDS_SECRET)["tls.key"]
        for name in ALL:
            break_secret(kube, name, tls_crt=GARBAGE)
        await ensure(kube)
    lines = [line for line in key.decode().splitlines() if "PRIVATE" not in line]
    said = "\n".join(str(vars(record)) for record in caplog.records)
    assert said
    assert not any(line in said for line in lines)
    with pytest.raises(Unusable) as fault:
        read_pair(data(kube, XDS_SECRET)["tls.crt"], key[:-60])
    assert not any(line in str(fault.value) for line in lines)
    assert fault.value.__cause__ is None


async def test_a_crash_at_any_write_is_healed_by_the_next_call() -> None:
    for write in (1, 2, 3):
        for fault in (Fault.TIMEOUT, Fault.ANSWER_LOST):
            kube = FakeKube()
            kube.faults.at_write(write, fault)
            with pytest.raises(Transient):
                await ensure(kube)
            await ensure(kube)
            both = {name: data(kube, name) for name in ALL}
            assert trusts(both[XDS_SECRET], both[GATEWAY_SECRET], NOW)
            assert trusts(both[GATEWAY_SECRET], both[XDS_SECRET], NOW)
            assert (await ensure(kube)).written == ()


async def test_errors_of_the_api_pass_through() -> None:
    kube = FakeKube()
    kube.faults.fail(Fault.FORBIDDEN, verb="get")
    with pytest.raises(Rejected):
        await ensure(kube)
    kube.faults.fail(Fault.CONFLICT, verb="create")
    with pytest.raises(Conflict):
        await ensure(kube)


async def test_labels_of_others_survive_a_renewal() -> None:
    kube = FakeKube()
    report = await ensure(kube)
    kube.edit(SECRET, SPACE, XDS_SECRET, lambda m: m["metadata"]["labels"].update(team="x"))
    await ensure(kube, report.due - NOW)
    secret = kube.peek(SECRET, SPACE, XDS_SECRET)
    assert secret is not None
    assert secret["metadata"]["labels"]["team"] == "x"


def write_files(folder: Path, values: Mapping[str, bytes]) -> Path:
    folder.mkdir()
    for name, value in values.items():
        (folder / name).write_bytes(value)
    return folder


async def say_hello(server_files: Path, client_files: Path, host: str) -> tuple[bytes, Any]:
    """One TLS connection on loopback; what the client read and the certificate the server saw."""
    seen: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peercert"))
        writer.write(b"hello")
        await writer.drain()
        writer.close()

    server_side = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=server_files / "ca.crt"
    )
    server_side.verify_mode = ssl.CERT_REQUIRED
    server_side.load_cert_chain(server_files / "tls.crt", server_files / "tls.key")
    client_side = ssl.create_default_context(cafile=client_files / "ca.crt")
    client_side.load_cert_chain(client_files / "tls.crt", client_files / "tls.key")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_side, server_hostname=host
        )
        try:
            said = await reader.read()
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    return said, seen[0] if seen else None


async def test_the_two_ends_shake_hands_and_know_each_other(tmp_path: Path) -> None:
    kube = FakeKube()
    await ensure_certificates(kube, kube, SPACE, datetime.now(UTC))
    server = write_files(tmp_path / "server", data(kube, XDS_SECRET))
    client = write_files(tmp_path / "client", data(kube, GATEWAY_SECRET))
    said, peer = await say_hello(server, client, f"llm-rollouts-xds.{SPACE}.svc")
    assert said == b"hello"
    assert peer["subjectAltName"] == (("DNS", "llm-rollouts-gateway"),)


async def test_strangers_and_wrong_names_do_not_shake_hands(tmp_path: Path) -> None:
    kube, stranger = FakeKube(), FakeKube()
    for each in (kube, stranger):
        await ensure_certificates(each, each, SPACE, datetime.now(UTC))
    host = f"llm-rollouts-xds.{SPACE}.svc"
    server = write_files(tmp_path / "server", data(kube, XDS_SECRET))
    client = write_files(tmp_path / "client", data(kube, GATEWAY_SECRET))
    other = write_files(tmp_path / "other", data(stranger, GATEWAY_SECRET))
    posing = write_files(tmp_path / "posing", data(kube, GATEWAY_SECRET))
    with pytest.raises(ssl.SSLCertVerificationError):
        await say_hello(server, client, "llm-rollouts-xds.elsewhere.svc")
    with pytest.raises(ssl.SSLCertVerificationError):
        await say_hello(server, other, host)
    # A gateway's certificate is no server's, even for a client that would take its name.
    with pytest.raises(ssl.SSLCertVerificationError):
        await say_hello(posing, client, "llm-rollouts-gateway")


@pytest.mark.apiserver
async def test_a_real_api_server_takes_the_secrets(apiserver: ApiServer, namespace: str) -> None:
    async with KubeClient(await connect(apiserver.kubeconfig)) as kube:
        first = await ensure_certificates(kube, kube, namespace, NOW)
        second = await ensure_certificates(kube, kube, namespace, NOW)
        third = await ensure_certificates(kube, kube, namespace, first.due)
    assert (first.written, second.written) == (ALL, ())
    assert third.written == (XDS_SECRET, GATEWAY_SECRET)
