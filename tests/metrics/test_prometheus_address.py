"""Which addresses the administrator's list allows, and which machines are never asked."""

from __future__ import annotations

import pytest

from llmrollouts.metrics.prometheus_address import AllowedAddresses, is_external, parse_address


@pytest.mark.parametrize(
    ("entry", "asked"),
    [
        ("https://prom.example", "https://prom.example"),
        ("https://prom.example/", "https://PROM.example:443"),
        ("https://prom.example", "https://prom.example/tenant/a"),
        ("https://prom.example/tenant", "https://prom.example/tenant/a/"),
        ("http://prom.example:9090", "http://prom.example.:9090"),
        ("http://[fd00::1]:9090", "http://[fd00::1]:9090"),
    ],
)
def test_an_entry_allows_itself_and_what_lies_below(entry: str, asked: str) -> None:
    permit = AllowedAddresses([entry]).permit(asked)
    assert permit is not None
    assert permit.url == asked.rstrip("/")


@pytest.mark.parametrize(
    ("entry", "asked"),
    [
        ("https://prom.example", "http://prom.example"),
        ("https://prom.example", "https://prom.example:9090"),
        ("https://prom.example", "https://prom.example.evil"),
        ("https://prom.example", "https://evil/prom.example"),
        ("https://prom.example/tenant", "https://prom.example/tenants"),
        ("https://prom.example/tenant", "https://prom.example"),
        ("http://127.0.0.1:9090", "http://localhost:9090"),
    ],
)
def test_an_entry_allows_nothing_else(entry: str, asked: str) -> None:
    assert AllowedAddresses([entry]).permit(asked) is None


def test_an_empty_list_allows_nothing() -> None:
    allowed = AllowedAddresses()
    assert not allowed
    assert allowed.permit("https://prom.example") is None


@pytest.mark.parametrize(
    "text",
    [
        "prom.example",
        "ftp://prom.example",
        "https://",
        "https://user:word@prom.example",
        "https://prom.example?x=1",
        "https://prom.example#x",
        "https://prom.example/a/../b",
        "https://prom.example/%2e%2e/b",
        "https://prom.example\\@evil",
        "https://prom.example:99999",
        "https://[::1",
    ],
)
def test_what_is_no_base_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|path"):
        parse_address(text)
    with pytest.raises(ValueError, match=r"address|path"):
        AllowedAddresses([text])


@pytest.mark.parametrize(
    "peer",
    [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "fe80::1%eth0",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "fd00:ec2::254",
        "100.100.100.200",
    ],
)
def test_own_machine_link_and_metadata_services_are_not_external(peer: str) -> None:
    assert not is_external(peer)


@pytest.mark.parametrize("peer", ["10.96.0.17", "192.0.2.1", "fd00::1", "2001:db8::1"])
def test_services_of_a_cluster_and_the_world_are_external(peer: str) -> None:
    assert is_external(peer)


@pytest.mark.parametrize(
    ("entry", "internal"),
    [
        ("http://localhost:9090", True),
        ("http://127.0.0.1:9090", True),
        ("http://[::1]:9090", True),
        ("http://10.0.0.1:9090", False),
        ("http://prom.example", False),
    ],
)
def test_only_an_entry_that_names_this_machine_leads_to_it(entry: str, internal: bool) -> None:
    permit = AllowedAddresses([entry]).permit(entry)
    assert permit is not None
    assert permit.internal is internal
