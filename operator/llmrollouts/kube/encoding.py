"""Objects to the very bytes that the API server itself would write.

A ControllerRevision's ``data`` is kept by the server as the bytes that were sent, and any later
change of the object (a JSON patch, the garbage collector taking an owner away) compares them with
the server's own encoding: other spaces or another order of keys read as "field is immutable". So
what is sent is compact, sorted, in UTF-8, and escapes what Go escapes. Called by the client.
"""

from __future__ import annotations

import json
from typing import Any, Final

# They stand only inside of texts, so they may be replaced in the whole document.
_ESCAPED: Final = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


def encode(value: Any) -> bytes:
    """The JSON of ``value`` as Go's encoder writes it."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.translate(_ESCAPED).encode("utf-8", "replace")
