"""Fixtures of the tests of the API."""

from __future__ import annotations

import pytest

from tests.api.manifests import Applier
from tests.apiserver import ApiServer


@pytest.fixture
def applier(apiserver: ApiServer, namespace: str) -> Applier:
    return Applier(apiserver, namespace)
