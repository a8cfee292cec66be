"""Protocol buffers, where the generated classes cost too much.

Answers to the proxies are put together from parts that were serialized once per deployment: a
message is the concatenation of its fields, so a list grows by appending, and two serializations
of one message one after the other are their merge (protobuf encoding rules). Requests are read
field by field, because each acknowledgement may carry thousands of names that nobody looks at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

Field: TypeAlias = tuple[int, int | bytes]

_VARINT, _FIXED64, _LENGTH = 0, 1, 2


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def delimited(field: int, payload: bytes) -> bytes:
    """One length-delimited field: a text, bytes or a message."""
    return varint(field << 3 | _LENGTH) + varint(len(payload)) + payload


def number(field: int, value: int) -> bytes:
    """One whole number, left out when zero as the encoding has it."""
    return varint(field << 3 | _VARINT) + varint(value) if value else b""


def plain(field: int, value: int) -> bytes:
    """One whole number from 0, truth value or enumeration, written also when zero."""
    return varint(field << 3 | _VARINT) + varint(value)


def double(field: int, value: float) -> bytes:
    return varint(field << 3 | _FIXED64) + struct.pack("<d", value)


def duration(seconds: float) -> bytes:
    """A ``google.protobuf.Duration``."""
    whole = int(seconds)
    return number(1, whole) + number(2, round((seconds - whole) * 1e9))


def fields(data: bytes) -> Iterator[Field]:
    """The fields of one message, in the order of the wire. Raises ValueError on broken input."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint_at(data, at)
        match tag & 7:
            case 0:
                value, at = _varint_at(data, at)
                yield tag >> 3, value
            case 2:
                size, at = _varint_at(data, at)
                if at + size > end:
                    raise ValueError("a field reaches beyond the end of its message")
                yield tag >> 3, data[at : at + size]
                at += size
            case 1 | 5 as kind:
                size = 8 if kind == _FIXED64 else 4
                if at + size > end:
                    raise ValueError("a field reaches beyond the end of its message")
                yield tag >> 3, data[at : at + size]
                at += size
            case kind:
                raise ValueError(f"unknown wire type {kind}")


def _varint_at(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number reaches beyond the end of its message")
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
