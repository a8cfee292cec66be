"""Carries the engine's output to the container's log and remembers its last lines.

Bytes are forwarded untouched. One thread for each stream, so that a slow log reader never stops
the event loop that answers the kubelet's probes.
"""

from __future__ import annotations

import os
import threading

TAIL_BYTES = 4096
READ_BYTES = 65536


class Tail:
    """The last bytes written by the engine on either stream, bounded."""

    def __init__(self, limit: int = TAIL_BYTES) -> None:
        self._limit = limit
        self._bytes = b""
        self._cut = False
        self._lock = threading.Lock()

    def append(self, chunk: bytes) -> None:
        with self._lock:
            self._bytes += chunk
            if len(self._bytes) > self._limit:
                self._bytes = self._bytes[-self._limit :]
                self._cut = True

    def text(self, limit: int) -> str:
        """At most `limit` bytes of whole lines (one line at least, cut at its front)."""
        with self._lock:
            kept, cut = self._bytes.rstrip(b"\n"), self._cut
        if cut or len(kept) > limit:
            kept = kept[-limit:]
            first_line_end = kept.find(b"\n")
            if first_line_end != -1:
                kept = kept[first_line_end + 1 :]
        return kept.decode("utf-8", "replace")


class Pump(threading.Thread):
    """Copies one pipe to one file descriptor until the pipe closes."""

    def __init__(self, source: int, target: int, tail: Tail) -> None:
        super().__init__(name=f"pump-{target}", daemon=True)
        self._source = source
        self._target = target
        self._tail = tail

    def run(self) -> None:
        target_open = True
        while True:
            chunk = os.read(self._source, READ_BYTES)
            if not chunk:
                break
            self._tail.append(chunk)
            while chunk and target_open:
                try:
                    chunk = chunk[os.write(self._target, chunk) :]
                except OSError:
                    # Nobody reads the log any more; the engine must not stop for that.
                    target_open = False
        os.close(self._source)
