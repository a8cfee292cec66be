"""The contract suite asserts in a module that pytest does not collect itself."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.kube.contract")
