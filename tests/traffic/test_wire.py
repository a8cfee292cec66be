"""The hand-made encoding agrees with the generated classes."""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryRequest, Resource
from hypothesis import given
from hypothesis import strategies as st

from llmrollouts.traffic import wire


@given(st.text(max_size=50), st.lists(st.text(min_size=1, max_size=20), max_size=5))
def test_what_the_generated_class_writes_is_read(version: str, names: list[str]) -> None:
    message = DiscoveryRequest(version_info=version, resource_names=names)
    read = list(wire.fields(bytes(message)))
    assert [value for number, value in read if number == 3] == [n.encode() for n in names]
    assert [value for number, value in read if number == 1] == ([version.encode()] * bool(version))


@given(st.text(max_size=300), st.integers(1, 2**31).map(lambda n: n / 1024))
def test_what_is_written_the_generated_class_reads(name: str, seconds: float) -> None:
    data = wire.delimited(3, name.encode()) + wire.delimited(6, wire.duration(seconds))
    message = Resource.parse(data)
    assert message.name == name
    assert message.ttl is not None
    assert abs(message.ttl - timedelta(seconds=seconds)) < timedelta(microseconds=2)


@given(st.binary(max_size=200))
def test_broken_input_is_a_value_error_and_nothing_else(data: bytes) -> None:
    try:
        list(wire.fields(data))
    except ValueError:
        return
