"""The gateway's start files. Golden: ``UPDATE_GOLDEN=1`` writes them anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap as Message

# Known inside an Any.
from envoy_data_plane.envoy.extensions.clusters.dns.v3 import DnsCluster
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import UpstreamTlsContext
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptions

from llmrollouts.traffic.bootstrap import DRAIN_FILE, ENVOY_FILE, FILES, main

GOLDEN = Path(__file__).parent / "golden" / "bootstrap"
KNOWN = (DnsCluster, Router, HttpConnectionManager, UpstreamTlsContext, HttpProtocolOptions)


def printed(capsys: pytest.CaptureFixture[str], name: str) -> str:
    main(["--namespace", "llm-rollouts", "--file", name])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in FILES if name != DRAIN_FILE])
def test_the_files_that_the_chart_embeds(
    capsys: pytest.CaptureFixture[str], name: str, update_golden: bool
) -> None:
    text = printed(capsys, name)
    if update_golden:
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


def test_the_bootstrap_has_no_field_that_envoy_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = yaml.safe_load(printed(capsys, ENVOY_FILE))
    assert Message.from_dict(document).admin is not None


def test_nothing_waits_with_a_time_limit_for_its_first_configuration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = yaml.safe_load(printed(capsys, ENVOY_FILE))
    dynamic = document["dynamic_resources"]
    layer = document["layered_runtime"]["layers"][-1]["rtds_layer"]["rtds_config"]
    for source in (dynamic["lds_config"], dynamic["cds_config"], layer):
        assert source["initial_fetch_timeout"] == "0s"


def test_the_admin_interface_listens_on_loopback_only(capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load(printed(capsys, ENVOY_FILE))
    assert document["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def test_the_drain_command_needs_the_standard_library_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(capsys, DRAIN_FILE)
    assert "llmrollouts" not in "".join(
        line for line in text.splitlines() if line.startswith(("import", "from"))
    )
    compile(text, DRAIN_FILE, "exec")
