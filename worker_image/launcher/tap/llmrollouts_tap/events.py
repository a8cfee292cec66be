"""Counts tokens in an event stream as it passes, by searching bytes, never by parsing JSON.

One event of vLLM is one token as long as its API server keeps up with its engine. When it does not,
vLLM joins the tokens that have waited into one event, and so do speculative decoding and parsers of
tools and of reasoning. So a long event counts as many tokens as it has words: counted as one, a
slow engine that never joins would look faster than a fast one that does. (Only an estimate; where
the stream tells its usage, that is the number of tokens in the end.) The first event is one token,
because with `echo` it repeats the prompt.

Quotes inside a JSON string are escaped, so none of the searched bytes can be written by a prompt or
an answer.

The four dialects, each with the events that carry a token, end the stream, or report an error:

    chat         "content", "reasoning", "tool_calls" ...  data: [DONE]         data: {"error"
    completions  "text"                                    data: [DONE]         data: {"error"
    responses    event: response.*.delta                   response.completed   response.failed
    messages     event: content_block_delta                message_stop         event: error
"""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

USUAL_TEXT = 16  # bytes: an event whose text is not longer holds one token
LONGEST_EVENT = 4 * 1024 * 1024  # bytes kept of an event that comes in parts

_LINE_FEED = b"\n"
_NOTHING_YET = b"\0"  # no event begins so
_DONE = b"data: [DONE]"
_ERROR = re.compile(rb'\Adata: ?\{\s*"error"\s*:|\Aevent: error\b')
_ABORTED = b'"finish_reason":"abort"'
_USAGE = re.compile(rb'"(?:completion|output)_tokens":\s*(\d+)')
_CONTENT = re.compile(
    rb'"(?:content|text|reasoning|reasoning_content|refusal|arguments)":\s*"([^"])'
    rb'|"tool_calls":\s*\[\s*\{|"function_call":\s*\{'
)
_NAMED_DELTA = re.compile(rb"\Aevent: (?:response\.[a-z_.]*delta|content_block_delta)\b")
_NAMED_TEXT = re.compile(rb'"(?:delta|text|thinking|partial_json)":\s*"')
_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_EMPTY_DELTA = re.compile(rb'"(?:delta|text|thinking|partial_json)":\s*""|"signature_delta"')
_NAMED_DONE = re.compile(rb"\Aevent: (?:response\.(?:completed|incomplete)|message_stop)\b")
_NAMED_ERROR = re.compile(rb"\Aevent: response\.failed\b")


@dataclass(frozen=True)
class Dialect:
    """How one path speaks. named: whether events carry an `event:` line."""

    named: bool


DIALECTS = {
    "/v1/chat/completions": Dialect(named=False),
    "/v1/completions": Dialect(named=False),
    "/v1/responses": Dialect(named=True),
    "/v1/messages": Dialect(named=True),
}


class EventReader:
    """Reads one stream. `mark(tokens, at)` is called at 1, 2, 4, 8, ... tokens."""

    __slots__ = (
        "_after",
        "_before",
        "_first_choice",
        "_frame",
        "_last_event",
        "_mark",
        "_next_mark",
        "_others",
        "_rest",
        "_text_at",
        "_unnamed",
        "_usage",
        "aborted",
        "done",
        "error",
        "last_at",
        "over",
        "seen",
    )

    def __init__(self, dialect: Dialect, mark: Callable[[int, float], None]) -> None:
        self._unnamed = not dialect.named
        self._mark = mark
        self._next_mark = 1
        self._rest = b""
        # What stands before and after the text in the latest event of choice 0.
        self._before = _NOTHING_YET
        self._after = b""
        self._text_at = 0  # bytes before
        self._frame = 0  # bytes of both
        self._first_choice = 0  # tokens of choice number 0
        self._others: dict[bytes, int] = {}  # tokens of the other choices
        self._last_event = b""  # of those that were read with care
        self._usage = 0
        self.seen = 0  # tokens of the longest choice, counted by events
        self.last_at = 0.0
        self.done = False
        self.error = False
        self.over = False  # done, or an error: the stream has nothing more to say
        self.aborted = False

    @property
    def tokens(self) -> int:
        """Of the longest choice; the stream's own usage when it tells it of one choice."""
        return self._usage if self._usage and not self._others else self.seen

    def take_usual(self, message: MutableMapping[str, Any]) -> bool:
        """Count the message if it is what nearly all are, and say whether it was.

        That is one event, and apart from its text the same as the one before, byte for byte. This
        is the tap's whole cost for a token.
        """
        part = message.get("body", b"")
        if (
            not part.startswith(self._before)
            or not part.endswith(self._after)
            or not message.get("more_body")
        ):
            return False
        tokens = 1
        length = len(part) - self._frame
        if length > USUAL_TEXT:
            text = part[self._text_at : self._text_at + length]
            if _LINE_FEED in text:
                return False  # several events; a JSON string holds no line feed
            tokens = len(text.split()) or 1
        elif length <= 0:
            return False
        count = self._first_choice = self._first_choice + tokens
        self.last_at = monotonic()
        if count > self.seen:
            self.seen = count
            if count >= self._next_mark:
                self._mark_until(count)
        return True

    def feed(self, part: bytes) -> None:
        """Any part of the body. Raises ValueError when an event never ends."""
        part = self._rest + part
        start = 0
        end = part.find(b"\n\n") + 2
        while end > 1:
            if self._unnamed:
                self._read_unnamed(part[start:end])
            else:
                self._read_named(part[start:end])
            start = end
            end = part.find(b"\n\n", start) + 2
        self._rest = part[start:]
        if len(self._rest) > LONGEST_EVENT:
            raise ValueError("an event without an end")

    def _read_unnamed(self, event: bytes) -> None:
        if event.startswith(_DONE):
            self.done = self.over = True
            self._read_end(self._last_event)
        elif _ERROR.match(event):
            self.error = self.over = True
        else:
            content = _CONTENT.search(event)
            if content is not None:
                self._count(event, content.start(1))
            else:
                self._read_end(event)

    def _read_named(self, event: bytes) -> None:
        if _NAMED_DELTA.match(event):
            if not _EMPTY_DELTA.search(event):
                text = _NAMED_TEXT.search(event)
                self._count(event, text.end() if text is not None else -1)
        elif _NAMED_DONE.match(event):
            self.done = self.over = True
            self._read_end(event)
        elif _ERROR.match(event) or _NAMED_ERROR.match(event):
            self.error = self.over = True
        elif event.startswith(b"event: message_delta"):
            self._read_end(event)

    def _read_end(self, event: bytes) -> None:
        """What only an event near the end tells: the usage, and that the answer was aborted."""
        if _ABORTED in event:
            self.aborted = True
        found = _USAGE.search(event)
        if found is not None:
            self._usage = int(found.group(1)) or self._usage

    def _count(self, event: bytes, text_at: int) -> None:
        """text_at: where its text begins; negative when it holds something else."""
        tokens = self._tokens_in(event, text_at) if text_at >= 0 else 1
        at = event.find(b'"index":') if self._unnamed else -1
        if at < 0 or event[at + 8 : at + 10] == b"0,":
            count = self._first_choice = self._first_choice + tokens
            self._learn_usual(event, text_at)
        else:
            choice = event[at + 8 : at + 14].partition(b",")[0]
            # As with the stream's first event, the first one of a choice may repeat the prompt.
            before = self._others.get(choice)
            count = self._others[choice] = 1 if before is None else before + tokens
        self._last_event = event
        self.last_at = monotonic()
        if count > self.seen:
            self.seen = count
            self._mark_until(count)

    def _tokens_in(self, event: bytes, text_at: int) -> int:
        """How many tokens an event holds whose text begins at a place: see the module's text."""
        text = _STRING.match(event, text_at)
        if self._first_choice == 0 or text is None or text.end() - text_at <= USUAL_TEXT:
            return 1
        return max(1, len(text.group().split()))

    def _learn_usual(self, event: bytes, text_at: int) -> None:
        text = _STRING.match(event, text_at) if text_at >= 0 else None
        if text is not None:
            self._before = event[:text_at]
            self._after = event[text.end() :]
            self._text_at = text_at
            self._frame = len(self._before) + len(self._after)

    def _mark_until(self, count: int) -> None:
        while self._next_mark <= count:
            self._mark(self._next_mark, self.last_at)
            self._next_mark *= 2


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
        if in_sight and not _CONTENT.search(self._head):
            return 0
        told = _USAGE.findall(self._tail) or _USAGE.findall(self._head)
        if not told:
            return 1  # an answer, of a length that it does not tell
        choices = max(1, self._head.count(b'"finish_reason":'))
        return -(-int(told[-1]) // choices)
