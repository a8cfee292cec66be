"""The contract, kept by the fake and by a real kube-apiserver through the real client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.client import KubeClient, collection_path
from llmrollouts.kube.connection import connect
from llmrollouts.kube.port import CONFIG_MAP, Kind, Rejected
from tests.apiserver import ApiServer
from tests.fakes.kube import FakeKube
from tests.kube.contract import Contract


class TestFakeApi(Contract):
    """In memory."""

    @pytest.fixture
    def kube(self) -> FakeKube:
        return FakeKube()

    @pytest.fixture
    def space(self) -> str:
        return "test"

    @pytest.fixture
    def person(self, kube: FakeKube) -> _FakePerson:
        return _FakePerson(kube)


@pytest.mark.apiserver
class TestRealApi(Contract):
    """Over the wire."""

    @pytest.fixture
    async def kube(self, apiserver: ApiServer) -> AsyncIterator[KubeClient]:
        async with KubeClient(await connect(apiserver.kubeconfig)) as client:
            yield client

    @pytest.fixture
    def space(self, namespace: str) -> str:
        return namespace

    @pytest.fixture
    def person(self, apiserver: ApiServer) -> _RealPerson:
        return _RealPerson(apiserver)

    async def test_pages_of_a_long_list_are_joined(
        self, kube: KubeClient, space: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("llmrollouts.kube.client.PAGE", 3)
        names = [f"n{number}" for number in range(8)]
        for name in names:
            await kube.create(CONFIG_MAP, _config_map(space, name))
        found = await kube.list(CONFIG_MAP, space, {"x": "1"})
        assert [m["metadata"]["name"] for m in found] == names

    async def test_a_field_that_the_server_does_not_know_is_refused_not_dropped(
        self, kube: KubeClient, space: str
    ) -> None:
        with pytest.raises(Rejected, match="nonsense: field not declared in schema"):
            await kube.apply(CONFIG_MAP, {**_config_map(space, "a"), "nonsense": 1})


def _config_map(namespace: str, name: str) -> Manifest:
    metadata = {"namespace": namespace, "name": name, "labels": {"x": "1"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


class _FakePerson:
    def __init__(self, kube: FakeKube) -> None:
        self._kube = kube

    def merge(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> None:
        self._kube.edit(kind, namespace, name, lambda m: _merge(m, patch), "person")


class _RealPerson:
    def __init__(self, server: ApiServer) -> None:
        self._server = server

    def merge(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> None:
        answer = self._server.request(
            "PATCH",
            f"{collection_path(kind, namespace)}/{name}?fieldManager=person",
            patch,
            "application/merge-patch+json",
        )
        assert answer.status == 200, answer.message


def _merge(target: Any, patch: Manifest) -> None:
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value
