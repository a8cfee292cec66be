"""What the single node's programs are told."""

from __future__ import annotations

import base64
import json
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path

import pytest

from e2e.cluster import configuration
from e2e.cluster import places as at
from e2e.cluster.places import Places, find_places

FILES = {
    "containerd.toml": "toml",
    "kubelet.json": "{}",
    "cni/10-llmr.conflist": "{}",
    "certificates": "trust",
}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "cache")


def test_every_path_the_node_writes_is_below_the_cache(places: Places) -> None:
    cni = json.loads(configuration.make_cni_config(places))
    kubelet = json.loads(configuration.make_kubelet_config(places))
    written = [
        cni["plugins"][0]["ipam"]["dataDir"],
        kubelet["podLogsDir"],
        kubelet["containerRuntimeEndpoint"].removeprefix("unix://"),
    ]
    for component in configuration.list_components(places, FILES):
        for word in component.arguments:
            if word.startswith("--") and "=/" in word:
                written.append(word.split("=", 1)[1])
    assert len(written) > 10
    assert all(Path(path).is_relative_to(places.cache) for path in written), written


def test_the_store_starts_first_and_the_proxy_after_the_node_exists(places: Places) -> None:
    names = [c.name for c in configuration.list_components(places, FILES)]
    assert names[0] == "etcd"
    assert names.index("kube-apiserver") < names.index("kubelet") < names.index("kube-proxy")


def test_the_store_listens_inside_the_namespace_only(places: Places) -> None:
    etcd = configuration.list_components(places, FILES)[0]
    for flag in ("--listen-client-urls", "--listen-peer-urls"):
        assert f"{flag}=http://127.0.0.1" in "".join(w for w in etcd.arguments if flag in w)


@pytest.mark.parametrize("changed", ["kubelet.json", "cni/10-llmr.conflist", "certificates"])
def test_a_changed_file_restarts_the_programs_that_read_it(places: Places, changed: str) -> None:
    def kubelet(files: dict[str, str]) -> tuple[str, ...]:
        named = {c.name: c for c in configuration.list_components(places, files)}
        return named["kubelet"].configuration

    assert kubelet(FILES) != kubelet({**FILES, changed: "other"})


def test_the_addresses_fit_together() -> None:
    assert IPv4Network(at.NODE_POD_RANGE).subnet_of(IPv4Network(at.POD_RANGE))
    services = ip_network(at.SERVICE_RANGE)
    assert ip_address(at.API_SERVICE_ADDRESS) == services[1]
    assert ip_address(at.DNS_ADDRESS) in services
    assert not services.overlaps(ip_network(at.POD_RANGE))
    link = ip_network(f"{at.HOST_ADDRESS}/{at.LINK_PREFIX}", strict=False)
    assert ip_address(at.NODE_ADDRESS) in link


def test_the_node_has_room_for_its_pods(places: Places) -> None:
    most = json.loads(configuration.make_kubelet_config(places))["maxPods"]
    # A replaced pod keeps its address until it is gone: twice the pods must fit.
    assert ip_network(at.NODE_POD_RANGE).num_addresses > 2 * most


def test_images_are_never_collected(places: Places) -> None:
    kubelet = json.loads(configuration.make_kubelet_config(places))
    assert kubelet["imageGCHighThresholdPercent"] == 100


def test_a_kubeconfig_can_be_copied_away_from_its_certificates(tmp_path: Path) -> None:
    for name in ("ca.crt", "admin.crt", "admin.key"):
        (tmp_path / name).write_text(name)
    config = json.loads(configuration.make_kubeconfig(tmp_path, "admin"))
    user = config["users"][0]["user"]
    assert base64.b64decode(user["client-key-data"]) == b"admin.key"
    assert str(tmp_path) not in json.dumps(config)


def test_the_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LLMR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert find_places().cache == tmp_path / ".cache" / "llm-rollouts"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert find_places().cache == tmp_path / "xdg" / "llm-rollouts"
    monkeypatch.setenv("LLMR_CACHE", str(tmp_path / "mine"))
    assert find_places().cache == tmp_path / "mine"
