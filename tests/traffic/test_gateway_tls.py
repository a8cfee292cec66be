"""Who may be told the routes: mutual TLS between a real Envoy and the xDS port."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import grpc
import pytest
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryRequest

from e2e.harness.processes import closed_port
from llmrollouts.traffic.kinds import Kind
from llmrollouts.traffic.tls import GATEWAY_IDENTITY, KeyFiles, make_credentials
from tests.traffic.certificates import Authority, make_authority
from tests.traffic.control import UID, canary, make_traffic, stable, start_control
from tests.traffic.proxy import start_proxy
from tests.traffic.users import steady_users
from tests.traffic.workers import Worker

pytestmark = pytest.mark.envoy

SERVER = "llm-rollouts-xds.llm-rollouts.svc"


def mount(authority: Authority, folder: Path, version: int, *names: str) -> None:
    """Replace a mounted Secret as the kubelet does: a new folder, and the link moved to it."""
    authority.issue(folder / f"..{version}", *names)
    fresh = folder / "..data_tmp"
    fresh.symlink_to(f"..{version}")
    fresh.rename(folder / "..data")
    for name in ("ca.crt", "tls.crt", "tls.key"):
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")


async def test_keys_are_renewed_on_both_sides_without_a_restart_and_without_a_lost_request(
    tmp_path: Path, v1: Worker, v2: Worker
) -> None:
    server, client = tmp_path / "server", tmp_path / "client"
    authority = make_authority()
    mount(authority, server, 1, SERVER)
    mount(authority, client, 1, GATEWAY_IDENTITY)
    wanted = make_traffic(stable(v1.endpoint), canary(v2.endpoint, share="50%"))
    port = closed_port()
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(
            start_proxy(tmp_path, port, server_name=SERVER, tls_folder=client)
        )
        async with start_control(
            wanted, credentials=make_credentials(KeyFiles(server)), port=port
        ) as control:
            await proxy.wait_ready()
            await control.settle()
            users = await stack.enter_async_context(steady_users(proxy.url))
            # A new authority and new keys for both; the old ones open no new connection.
            renewed = make_authority()
            mount(renewed, server, 2, SERVER)
            mount(renewed, client, 2, GATEWAY_IDENTITY)
            async with start_proxy(
                tmp_path, port, name="gateway-1", server_name=SERVER, tls_folder=client
            ) as newcomer:
                await newcomer.wait_ready()  # the server has taken up its new keys
            await control.settle()  # and the open stream went on
        async with start_control(
            wanted, credentials=make_credentials(KeyFiles(server)), port=port
        ) as successor:
            await successor.settle()  # the gateway has taken up its new keys
            await asyncio.sleep(0.2)
    assert users.statuses().keys() == {200}
    assert users.by_revision().keys() == {"v1", "v2"}


@pytest.mark.parametrize("case", ["other authority", "not a gateway", "no TLS"])
async def test_a_peer_that_is_no_gateway_is_told_nothing(
    tmp_path: Path, v1: Worker, case: str
) -> None:
    server, client = tmp_path / "server", tmp_path / "client"
    authority = make_authority()
    mount(authority, server, 1, SERVER)
    match case:
        case "other authority":
            mount(make_authority(), client, 1, GATEWAY_IDENTITY)
            (client / "..1" / "ca.crt").write_bytes(authority.pem)
        case "not a gateway":
            mount(authority, client, 1, "somebody-else")
        case _:
            mount(authority, client, 1, GATEWAY_IDENTITY)
    wanted = make_traffic(stable(v1.endpoint))
    name = SERVER if case != "no TLS" else None
    async with (
        start_control(wanted, credentials=make_credentials(KeyFiles(server))) as control,
        start_proxy(tmp_path, control.port, server_name=name, tls_folder=client) as proxy,
    ):
        await asyncio.sleep(3)
        assert not await proxy.is_ready()
        assert control.traffic.observe(UID).settled_gateways == 0
        assert "/prod/chat" not in str(await proxy.dump())


async def test_a_gateway_does_not_listen_to_a_server_that_is_not_the_operator(
    tmp_path: Path, v1: Worker
) -> None:
    server, client = tmp_path / "server", tmp_path / "client"
    authority = make_authority()
    mount(authority, server, 1, "somebody-else.llm-rollouts.svc")
    mount(authority, client, 1, GATEWAY_IDENTITY)
    async with (
        start_control(
            make_traffic(stable(v1.endpoint)), credentials=make_credentials(KeyFiles(server))
        ) as control,
        start_proxy(tmp_path, control.port, server_name=SERVER, tls_folder=client) as proxy,
    ):
        await asyncio.sleep(2)
        assert not await proxy.is_ready()


async def test_a_client_without_a_certificate_is_refused(tmp_path: Path, v1: Worker) -> None:
    authority = make_authority()
    mount(authority, tmp_path / "server", 1, SERVER)
    method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
    first = bytes(DiscoveryRequest(node=Node(id="gateway-0"), type_url=Kind.ROUTES.value))
    async with (
        start_control(
            make_traffic(stable(v1.endpoint)),
            credentials=make_credentials(KeyFiles(tmp_path / "server")),
        ) as control,
        grpc.aio.secure_channel(
            f"127.0.0.1:{control.port}",
            grpc.ssl_channel_credentials(root_certificates=authority.pem),
            options=[("grpc.ssl_target_name_override", SERVER)],
        ) as channel,
    ):
        call = channel.stream_stream(method)(iter([first]))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asyncio.wait_for(call.read(), 10)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert control.traffic.observe(UID).gateways == 1  # the expected one, and no other
