"""Counts tokens in an event stream as it passes, by searching bytes, never by parsing JSON.

One event of vLLM is one token, nearly always: `--stream-interval`, speculative decoding and parsers
of tools and of reasoning may put several into one event. Where the stream tells its usage, that is
the number of tokens in the end. Quotes inside a JSON string are escaped, so none of the searched
bytes can be written by a prompt or an answer.

The four dialects, each with the events that carry a token, end the stream, or report an error:

    chat         "content", "reasoning", "tool_calls" ...  data: [DONE]         data: {"error"
    completions  "text"                                    data: [DONE]         data: {"error"
    responses    event: response.*.delta                   response.completed   response.failed
    messages     event: content_block_delta                message_stop         event: error
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

LONGEST_EVENT = 4 * 1024 * 1024  # bytes kept of an event that comes in parts

_QUOTE = ord('"')
_DONE = b"data: [DONE]"
_ERROR = re.compile(rb'\Adata: ?\{\s*"error"\s*:|\Aevent: error\b')
_ABORTED = b'"finish_reason":"abort"'
_USAGE = re.compile(rb'"(?:completion|output)_tokens":\s*(\d+)')
_OTHER_CONTENT = re.compile(
    rb'"(?:content|text|reasoning|reasoning_content|refusal|arguments)":\s*"[^"]'
    rb'|"tool_calls":\s*\[\s*\{|"function_call":\s*\{'
)
_NAMED_DELTA = re.compile(rb"\Aevent: (?:response\.[a-z_.]*delta|content_block_delta)\b")
_EMPTY_DELTA = re.compile(rb'"(?:delta|text|thinking|partial_json)":\s*""|"signature_delta"')
_NAMED_DONE = re.compile(rb"\Aevent: (?:response\.(?:completed|incomplete)|message_stop)\b")
_NAMED_ERROR = re.compile(rb"\Aevent: response\.failed\b")


@dataclass(frozen=True)
class Dialect:
    """How one path speaks. usual: the bytes before the text of nearly every token."""

    usual: bytes = b""
    named: bool = False  # events carry an `event:` line


DIALECTS = {
    "/v1/chat/completions": Dialect(b'"content":"'),
    "/v1/completions": Dialect(b'"text":"'),
    "/v1/responses": Dialect(named=True),
    "/v1/messages": Dialect(named=True),
}


class EventReader:
    """Reads one stream. `mark(tokens, at)` is called at 1, 2, 4, 8, ... tokens."""

    def __init__(self, dialect: Dialect, mark: Callable[[int, float], None]) -> None:
        self._usual = dialect.usual
        self._text_at = len(dialect.usual)
        self._read = self._read_named if dialect.named else self._read_unnamed
        self._mark = mark
        self._rest = b""
        self._first_choice = 0  # tokens of choice number 0
        self._others: dict[bytes, int] = {}  # tokens of the other choices
        self._last_event = b""
        self._usage = 0
        self.seen = 0  # tokens of the longest choice, counted by events
        self.last_at = 0.0
        self.done = False
        self.error = False
        self.aborted = False

    @property
    def tokens(self) -> int:
        """Of the longest choice; the stream's own usage when it tells it of one choice."""
        return self._usage if self._usage and not self._others else self.seen

    def feed(self, part: bytes) -> None:
        """One part of the body. Raises ValueError when an event never ends."""
        if self._rest:
            part = self._rest + part
            self._rest = b""
        end = part.find(b"\n\n") + 2
        if end > 1 and end == len(part):
            self._read(part)  # the common case: one part is one event
            return
        start = 0
        while end > 1:
            self._read(part[start:end])
            start = end
            end = part.find(b"\n\n", start) + 2
        self._rest = part[start:]
        if len(self._rest) > LONGEST_EVENT:
            raise ValueError("an event without an end")

    def _read_unnamed(self, event: bytes) -> None:
        at = event.find(self._usual)
        if at >= 0 and event[at + self._text_at] != _QUOTE:
            self._count(event)
        elif event.startswith(_DONE):
            self.done = True
            self._read_end(self._last_event)
        elif _ERROR.match(event):
            self.error = True
        elif _OTHER_CONTENT.search(event):
            self._count(event)
        else:
            self._read_end(event)

    def _read_named(self, event: bytes) -> None:
        if _NAMED_DELTA.match(event):
            if not _EMPTY_DELTA.search(event):
                self._count(event)
        elif _NAMED_DONE.match(event):
            self.done = True
            self._read_end(event)
        elif _ERROR.match(event) or _NAMED_ERROR.match(event):
            self.error = True
        elif event.startswith(b"event: message_delta"):
            self._read_end(event)

    def _read_end(self, event: bytes) -> None:
        """What only an event near the end tells: the usage, and that the answer was aborted."""
        if _ABORTED in event:
            self.aborted = True
        found = _USAGE.search(event)
        if found is not None:
            self._usage = int(found.group(1)) or self._usage

    def _count(self, event: bytes) -> None:
        at = event.find(b'"index":') if self._usual else -1
        if at < 0 or event[at + 8 : at + 10] == b"0,":
            count = self._first_choice = self._first_choice + 1
        else:
            choice = event[at + 8 : at + 14].partition(b",")[0]
            count = self._others[choice] = self._others.get(choice, 0) + 1
        self._last_event = event
        self.last_at = time.monotonic()
        if count > self.seen:
            self.seen = count
            if not count & (count - 1):
                self._mark(count, self.last_at)


class WholeReader:
    """Reads an answer that is not streamed, from its first and last bytes alone."""

    HEAD = 256 * 1024
    TAIL = 8 * 1024

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""

    def feed(self, part: bytes) -> None:
        if len(self._head) < self.HEAD:
            self._head += part[: self.HEAD - len(self._head)]
        self._tail = (self._tail + part[-self.TAIL :])[-self.TAIL :]

    @property
    def error(self) -> bool:
        return self._head.startswith((b'{"error"', b'{"object":"error"'))

    @property
    def aborted(self) -> bool:
        return _ABORTED in self._head

    @property
    def tokens(self) -> int:
        """0: an answer without content. Of several choices the mean, which is all it tells."""
        # A tool's call in the form of /v1/messages holds no text, and huge log probabilities may
        # push the text out of sight.
        in_sight = b'"tool_use"' not in self._head and len(self._head) < self.HEAD
        if in_sight and not _OTHER_CONTENT.search(self._head):
            return 0
        told = _USAGE.findall(self._tail) or _USAGE.findall(self._head)
        if not told:
            return 1  # an answer, of a length that it does not tell
        choices = max(1, self._head.count(b'"finish_reason":'))
        return -(-int(told[-1]) // choices)
