"""Where the API server is found, and a token that changes under us."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llmrollouts.kube.connection import (
    BEARER,
    TOKEN_PERIOD,
    Connection,
    NoConnection,
    TokenFile,
    connect,
    connect_in_cluster,
)

ENVIRON = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_text("unread here")
    return tmp_path


async def sent(connection: Connection) -> str | None:
    value: str | None = await connection.configuration.get_api_key_with_prefix(BEARER)
    return value


async def test_a_pod_uses_its_service_account(account: Path) -> None:
    connection = await connect(environ=ENVIRON, service_account=account)
    assert connection.configuration.host == "https://10.0.0.1:443"
    assert connection.configuration.ssl_ca_cert == str(account / "ca.crt")
    assert await sent(connection) == "Bearer first"


async def test_an_ipv6_server_is_bracketed(account: Path) -> None:
    environ = {**ENVIRON, "KUBERNETES_SERVICE_HOST": "fd00::1"}
    assert connect_in_cluster(environ, account).configuration.host == "https://[fd00::1]:443"


async def test_a_renewed_token_is_used_within_a_minute_or_at_once_after_a_refusal(
    account: Path,
) -> None:
    clock = Clock()
    connection = connect_in_cluster(ENVIRON, account, clock)
    (account / "token").write_text("second")
    clock.now += TOKEN_PERIOD - 1
    assert await sent(connection) == "Bearer first"
    clock.now += 1
    assert await sent(connection) == "Bearer second"
    (account / "token").write_text("third")
    await connection.refresh()
    assert await sent(connection) == "Bearer third"


async def test_a_token_file_in_the_middle_of_a_swap_keeps_the_last_token(account: Path) -> None:
    clock = Clock()
    token = TokenFile(account / "token", clock)
    (account / "token").unlink()
    clock.now += 10 * TOKEN_PERIOD
    assert token.value() == "first"
    (account / "token").write_text("")
    assert token.value() == "first"
    (account / "token").write_text("second")
    assert token.value() == "second"


async def test_a_pod_without_token_is_told_what_is_missing(account: Path) -> None:
    (account / "token").unlink()
    with pytest.raises(NoConnection, match="automountServiceAccountToken"):
        await connect(environ=ENVIRON, service_account=account)
    (account / "token").write_text("")
    with pytest.raises(NoConnection, match="empty"):
        await connect(environ=ENVIRON, service_account=account)
    (account / "ca.crt").unlink()
    with pytest.raises(NoConnection, match="CA certificate"):
        await connect(environ=ENVIRON, service_account=account)


async def test_a_kubeconfig_wins_when_it_is_named(tmp_path: Path, account: Path) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [
            {"name": "a", "cluster": {"server": "http://127.0.0.1:1"}},
            {"name": "b", "cluster": {"server": "http://127.0.0.1:2"}},
        ],
        "users": [{"name": "me", "user": {"token": "mine"}}],
        "contexts": [
            {"name": "one", "context": {"cluster": "a", "user": "me"}},
            {"name": "two", "context": {"cluster": "b", "user": "me"}},
        ],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    connection = await connect(path, environ=ENVIRON, service_account=account)
    assert connection.configuration.host == "http://127.0.0.1:1"
    assert await sent(connection) == "Bearer mine"
    other = await connect(path, "two", environ=ENVIRON, service_account=account)
    assert other.configuration.host == "http://127.0.0.1:2"
    config["users"] = [{"name": "me", "user": {"token": "newer"}}]
    path.write_text(yaml.safe_dump(config))
    await connection.refresh()
    assert await sent(connection) == "Bearer newer"


@pytest.mark.parametrize("text", ["", "nonsense", "a: [", "clusters: []"])
async def test_a_broken_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(NoConnection, match="kubeconfig"):
        await connect(path)


async def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoConnection, match="absent"):
        await connect(tmp_path / "absent")
