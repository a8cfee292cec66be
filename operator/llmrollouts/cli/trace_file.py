"""Reads recorded requests, one JSON record a line, in one pass and bounded memory a line.

Every record is checked: a trace that is wrong in one place tells the line. msgspec checks types
while it parses, so a million records take seconds. It decides nothing. Called by `kubectl llm
replay`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn

import msgspec
import numpy as np

from llmrollouts.analysis.evalues import IntArray
from llmrollouts.analysis.trace import BoolArray, Trace
from llmrollouts.cli.failure import BadInput

LONGEST_LINE: Final = 65_536  # bytes
# Recorders write a request when it ends, or in batches: so far behind may a line be.
MOST_DISORDER: Final = 60.0  # seconds
_BLOCK: Final = 4 * 1024 * 1024
_LEFT_OUT: Final = "null where there is none"
_GZIP: Final = b"\x1f\x8b"

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
_Latency = Annotated[float, msgspec.Meta(ge=0, le=1e7)]


class Record(msgspec.Struct, gc=False):
    """One recorded request; other fields of a line are ignored."""

    t: _Seconds
    revision: Literal["stable", "canary"]
    replica: str
    ttft: _Latency | None
    tpot: _Latency | None
    e2e: _Latency | None
    tokens: Annotated[int, msgspec.Meta(ge=0, le=2**40)] | None
    status: Annotated[int, msgspec.Meta(ge=0, le=599)] | None


@dataclass(frozen=True)
class Recording:
    """A trace as read. canary_replicas: workers of the canary that answered."""

    trace: Trace
    canary_replicas: int


def read_recording(path: Path) -> Recording:
    """The records of a file, sorted by arrival. Raises BadInput, which names the line."""
    chunks: list[_Chunk] = []
    try:
        with path.open("rb", buffering=0) as file:
            chunks.extend(_read_chunk(block, first) for block, first in _blocks(file.read))
    except OSError as problem:
        raise BadInput(f"{path} cannot be read: {problem.strerror}") from problem
    if not any(len(chunk.numbers) for chunk in chunks):
        raise BadInput(f"{path} holds no records")
    return _combine(chunks)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Columns of some lines. numbers: of their lines, from 1; replicas: of the canary; worker: the
    place among these of the one that answered, 0 for stable's."""

    numbers: IntArray
    columns: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]
    canary: BoolArray
    replicas: tuple[str, ...]
    worker: IntArray


_NUMBERS: Final = ("t", "ttft", "tpot", "e2e", "tokens", "status")
_DECODER: Final = msgspec.json.Decoder(Record)


def _blocks(read: Callable[[int], bytes | None]) -> Iterator[tuple[bytes, int]]:
    """Whole lines, some megabytes at a time, with the number of the first."""
    rest, number = b"", 1
    while block := read(_BLOCK):
        whole, newline, tail = (rest + block).rpartition(b"\n")
        if newline:
            yield whole, number
            number += whole.count(b"\n") + 1
        rest = tail
        if len(rest) > LONGEST_LINE:
            _refuse_length(number)
    if rest:
        yield rest, number


def _read_chunk(block: bytes, first: int) -> _Chunk:
    breaks = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
    lengths = np.diff(np.concatenate([[-1], breaks, [len(block)]])) - 1
    if int(lengths.max()) > LONGEST_LINE:
        _refuse_length(first + int(np.argmax(lengths > LONGEST_LINE)))
    try:
        records = _DECODER.decode_lines(block)
    except (msgspec.DecodeError, UnicodeDecodeError):
        _refuse_line(block, first)
    if len(records) == len(lengths):
        numbers = first + np.arange(len(records))
    else:
        filled = (i for i, line in enumerate(block.split(b"\n")) if line.strip())
        numbers = first + np.fromiter(filled, dtype=np.int64)
    columns = {
        name: np.array([getattr(record, name) for record in records], dtype=np.float64)
        for name in _NUMBERS
    }
    canary = np.array([record.revision == "canary" for record in records], dtype=np.bool_)
    places: dict[str, int] = {}
    worker = np.fromiter(
        (
            places.setdefault(record.replica, len(places)) if record.revision == "canary" else 0
            for record in records
        ),
        dtype=np.int64,
        count=len(records),
    )
    chunk = _Chunk(numbers, columns, canary, tuple(places), worker)
    _check(chunk)
    return chunk


def _check(chunk: _Chunk) -> None:
    """What types do not say."""
    status, ttft, e2e = (chunk.columns[name] for name in ("status", "ttft", "e2e"))
    _refuse_where(
        (status > 0) & (status < 100), chunk, "status lies between 100 and 599, or is null"
    )
    # A millisecond, because recorders round.
    _refuse_where(e2e < ttft - 1e-3, chunk, "the answer ends (e2e) before it begins (ttft)")


def _refuse_where(wrong: BoolArray, chunk: _Chunk, message: str) -> None:
    if wrong.any():
        raise BadInput(f"line {int(chunk.numbers[int(np.argmax(wrong))])}: {message}")


def _refuse_length(number: int) -> NoReturn:
    raise BadInput(
        f"line {number} is longer than {LONGEST_LINE:,} bytes: a record has eight short fields"
    )


def _refuse_line(block: bytes, first: int) -> NoReturn:
    """Find the line that made the whole block unreadable, and say what is wrong with it."""
    for number, line in enumerate(block.split(b"\n"), start=first):
        if not line.strip():
            continue
        try:
            _DECODER.decode(line)
        except msgspec.ValidationError as problem:
            raise BadInput(f"line {number}: {_in_words(str(problem))}") from problem
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise BadInput(
                f"line {number} is no JSON record: {problem}", *_advise(line)
            ) from problem
    raise AssertionError("a block cannot be read, though each of its lines can")


def _advise(line: bytes) -> list[str]:
    if line.startswith(_GZIP):
        return ["The file is compressed: unzip it first."]
    if b"NaN" in line or b"Infinity" in line:
        return [f"NaN and Infinity are no JSON: write {_LEFT_OUT}."]
    return ["A trace has one JSON object a line: docs/replay.md lists its fields."]


def _in_words(problem: str) -> str:
    """msgspec's message without its marks of code."""
    text, _, place = problem.partition(" - at ")
    name = place.strip("`").removeprefix("$").removeprefix(".")
    text = text.replace("`", "").replace("float", "number").replace("str", "text")
    text = text.replace(" | null", " or null").replace("Expected int", "Expected whole number")
    text = text.replace("Expected object", "Expected a JSON object")
    text = re.sub(r">= ([\d.e+]+)", lambda m: f"from {float(m[1]):,.0f} on", text)
    text = re.sub(r"<= ([\d.e+]+)", lambda m: f"up to {float(m[1]):,.0f}", text)
    text = text.replace("Expected ", "expected: ").replace(", got ", ", found: ")
    text = text.replace("Object missing required field", "there is no field")
    text = text.replace("Invalid enum value", "it is stable or canary, not")
    return f"{name}: {text}" if name else text


def _combine(chunks: list[_Chunk]) -> Recording:
    def join(name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.concatenate([chunk.columns.pop(name) for chunk in chunks])

    arrival = join("t")
    behind = np.maximum.accumulate(arrival) - arrival
    if float(behind.max()) > MOST_DISORDER:
        row = int(np.argmax(behind > MOST_DISORDER))
        number = int(np.concatenate([chunk.numbers for chunk in chunks])[row])
        raise BadInput(
            f"line {number}: it arrived {behind[row]:,.0f} s before a line above it: sort the "
            f"trace by t ({MOST_DISORDER:g} s of disorder are accepted)"
        )
    order = np.argsort(arrival, kind="stable")
    ttft, tpot, e2e = (join(name)[order] for name in ("ttft", "tpot", "e2e"))
    tokens, status = (
        np.nan_to_num(join(name), nan=0.0)[order].astype(np.int64) for name in ("tokens", "status")
    )
    arrival, workers = arrival[order], dict[str, int]()
    with np.errstate(invalid="ignore"):
        known = np.fmax(np.fmax(arrival, arrival + ttft), arrival + e2e)
    trace = Trace(
        arrival=arrival,
        canary=np.concatenate([chunk.canary for chunk in chunks])[order],
        ttft=ttft,
        tpot=tpot,
        e2e=e2e,
        tokens=tokens,
        status=status,
        # The last moment of which the record tells: the recorder still ran then.
        end=float(known.max()),
        worker=np.concatenate([_number_workers(chunk, workers) for chunk in chunks])[order],
    )
    return Recording(trace, len(workers))


def _number_workers(chunk: _Chunk, workers: dict[str, int]) -> IntArray:
    """The workers of a chunk by their numbers in the whole file, which grow with it."""
    numbers = [workers.setdefault(name, len(workers)) for name in chunk.replicas]
    return np.array(numbers or [0], dtype=np.int64)[chunk.worker]
