"""The datagrams between tap and launcher: fixed records, several to a datagram.

Written by the tap (`outlet`), read by the launcher (`sampler`). Both come from one image, so the
format needs no version of its own. Little-endian:

    header  key (8 bytes, a secret of this life of the engine), process id, life (a random number
            drawn by each process), sequence number of the first record, number of records
    record  what, detail, HTTP status, request (counted by the process), at, last, tokens

`at` and `last` are seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("<8sIIQH")
RECORD = struct.Struct("<BBHIddI")
RECORDS_IN_DATAGRAM = 128

# what: the kinds of a record.
START = 1  # the request has arrived; detail: STREAMED | MIRRORED
TOKENS = 2  # `tokens` (1, 2, 4, 8, ...) tokens have been answered
END = 3  # detail: how it ended; last: time of its last token; tokens: of its longest choice
ALIVE = 4  # the launcher's own probe came by; nothing else is known from it
FORGET = 5  # the tap lost sight of this request: nothing may be said of it
OTHER = 6  # a user asked for something that is not measured, such as the list of models

STREAMED = 1
MIRRORED = 2

# How a request ended.
OK = 1
FAILED = 2  # a server error, as a status or inside a 200 stream
REFUSED = 3  # 4xx
EMPTY = 4  # 200 without a single token
TRUNCATED = 5  # 200, but the answer lacks its proper end
LEFT = 6  # the client went away first
CUT = 7  # the server broke off after the answer had begun

ENDS = {
    OK: "ok",
    FAILED: "failed",
    REFUSED: "refused",
    EMPTY: "empty",
    TRUNCATED: "truncated",
    LEFT: "left",
    CUT: "cut",
}

ADDRESS_VARIABLE = "LLMROLLOUTS_TAP_SOCKET"  # "@name" of a socket in the abstract namespace
TOKEN_VARIABLE = "LLMROLLOUTS_TAP_TOKEN"  # noqa: S105 - the variable's name, not its value
PROBE_HEADER = b"x-llmrollouts-probe"  # carries the token: the launcher's own requests
MIRRORED_HEADER = b"x-llmrollouts-mirrored"  # set by the gateway alone, stripped from clients


def key_of(token: str) -> bytes:
    """The 8 bytes that open a datagram; `token` is 32 hex digits, its rest goes into headers."""
    return bytes.fromhex(token)[:8]


def socket_address(name: str) -> str:
    """`@name` as the socket calls want it."""
    return "\0" + name[1:] if name.startswith("@") else name
