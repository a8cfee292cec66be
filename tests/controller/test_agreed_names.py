"""Two layers that may not import each other name the same things."""

from __future__ import annotations

from llmrollouts.kube import certificates
from llmrollouts.traffic import tls


def test_certificates_are_made_for_the_names_that_the_stream_asks_for() -> None:
    assert certificates.GATEWAY_IDENTITY == tls.GATEWAY_IDENTITY
    assert certificates.XDS_SERVICE == tls.XDS_SERVICE
