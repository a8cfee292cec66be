"""Records how an engine answers over HTTP, as shapes instead of values.

    python -m tests.worker_image.record_contract --base-url http://127.0.0.1:8000 \
        --help-text help.txt --out tests/worker_image/contract/vllm-0.32.0.json

The golden file in `contract/` comes from a run of the real vLLM; the same recording of the fake
engine must be equal to it, and the end-to-end tests record the real one again in a pod. Start the
engine with `--served-model-name chat --max-model-len 512 --enable-server-load-tracking`.

Kept from an answer: status, content type, header names, JSON keys and types, the few values that
programs branch on (`KEPT_VALUES`), the order of stream events, and for `/metrics` the names, types,
label names and bucket bounds. Not kept: texts, numbers, ids, times. `--help-text` is the output of
`vllm serve --help=all`; from it come the flags and whether they take a value.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.worker_image.contract_cases import CASES, Case

# Field names whose value is part of the contract, not just its type.
KEPT_VALUES = frozenset({"object", "finish_reason", "role", "type", "code", "param", "version"})
# Objects with free keys (token texts and ids): only the shape of their values is kept.
FREE_KEYS = frozenset({"prompt_logprobs", "top_logprobs"})
NAMES_OF_TYPES = {
    bool: "bool",
    type(None): "null",
    int: "number",
    float: "number",
    str: "string",
}


def shape_of(value: object, key: str = "") -> object:
    """The recursive shape of a JSON value: names of types, with KEPT_VALUES spelled out."""
    if isinstance(value, dict):
        if key in FREE_KEYS:
            return {"*": shape_of(next(iter(value.values())))} if value else {}
        return {name: shape_of(inner, name) for name, inner in sorted(value.items())}
    if isinstance(value, list):
        shapes: list[object] = []
        for item in value:
            shape = shape_of(item, key)
            if shape not in shapes:
                shapes.append(shape)
        return shapes
    if key in KEPT_VALUES and not isinstance(value, float):
        return f"={value}"
    return NAMES_OF_TYPES[type(value)]


def shape_of_stream(text: str) -> list[object]:
    """Stream events in order; equal neighbours count once (an engine may merge tokens)."""
    events: list[object] = []
    for part in text.split("\n\n"):
        if not part:
            continue
        named, _, rest = part.partition("\n")
        name = named.removeprefix("event: ") if named.startswith("event: ") else None
        line = part if name is None else rest
        if not line.startswith("data: "):
            events.append("not an event")
            continue
        content = line[len("data: ") :]
        shape = content if content == "[DONE]" else shape_of(json.loads(content))
        if name is not None:
            shape = {"event": name, "data": shape}
        if not events or events[-1] != shape:
            events.append(shape)
    if not text.endswith("\n\n"):
        events.append("no blank line at the end")
    return events


class Recorder:
    """Sends the cases to one engine."""

    def __init__(self, base_url: str, timeout: float = 120.0) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 80
        self._prefix = parts.path.rstrip("/")
        self._timeout = timeout

    def exchange(self, case: Case) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            body = case.raw if case.raw is not None else None
            if case.body is not None:
                body = json.dumps(case.body)
            headers = {}
            if body is not None and case.content_type is not None:
                headers["Content-Type"] = case.content_type
            connection.request(case.method, self._prefix + case.path, body=body, headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, text
        finally:
            connection.close()

    def record_case(self, case: Case) -> dict[str, object]:
        status, headers, text = self.exchange(case)
        kind = headers.get("content-type", "")
        recorded: dict[str, object] = {
            "status": status,
            "contentType": kind,
            "headers": sorted(set(headers) - {"date", "server"}),
        }
        if kind.startswith("application/json"):
            recorded["body"] = shape_of(json.loads(text))
        elif kind.startswith("text/event-stream"):
            recorded["events"] = shape_of_stream(text)
        else:
            recorded["body"] = "empty" if not text else "text"
        return recorded

    def record_metrics(self) -> dict[str, object]:
        status, headers, text = self.exchange(Case("metrics", "/metrics", method="GET"))
        if status != 200:
            raise RuntimeError(f"/metrics answered {status}")
        return {
            "contentType": headers.get("content-type", ""),
            "families": read_metric_families(text),
        }


_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# Labels whose every value is written out from the start, so that the set is part of the contract.
_STATED_LABELS = frozenset({"reason", "source", "sleep_state", "finished_reason"})


def read_metric_families(page: str) -> dict[str, dict[str, object]]:
    """Family -> type, label names, bucket bounds, and the values of the labels with fixed sets."""
    types: dict[str, str] = {}
    labels: dict[str, set[str]] = {}
    bounds: dict[str, list[str]] = {}
    stated: dict[str, set[str]] = {}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
            continue
        match = _SAMPLE.match(line)
        if match is None:
            continue
        family = _family_of(match.group(1), types)
        if family is None:
            continue
        found = dict(_LABEL.findall(match.group(2) or ""))
        bound = found.pop("le", None)
        if bound is not None and bound not in bounds.setdefault(family, []):
            bounds[family].append(bound)
        labels.setdefault(family, set()).update(found)
        stated.setdefault(family, set()).update(
            f"{name}={value}" for name, value in found.items() if name in _STATED_LABELS
        )
    families: dict[str, dict[str, object]] = {}
    for name, kind in sorted(types.items()):
        families[name] = {"type": kind, "labels": sorted(labels.get(name, ()))}
        if name in bounds:
            families[name]["buckets"] = bounds[name]
        if stated.get(name):
            families[name]["values"] = sorted(stated[name])
    return families


def _family_of(sample: str, types: dict[str, str]) -> str | None:
    if sample in types and types[sample] not in ("histogram", "summary"):
        return sample
    for suffix in ("_bucket", "_count", "_sum"):
        if sample.endswith(suffix) and sample[: -len(suffix)] in types:
            return sample[: -len(suffix)]
    return None


def read_flags(help_text: str) -> dict[str, str]:
    """Flag -> `none`, `one` or `many` values, from `vllm serve --help=all`."""
    flags: dict[str, str] = {}
    for line in help_text.splitlines():
        if not re.match(r"^  -", line):
            continue
        for part in re.split(r", (?=-)", line.strip().split("  ")[0]):
            name, _, value = part.partition(" ")
            if not value:
                flags.setdefault(name, "none")
            else:
                flags[name] = "many" if "..." in value else "one"
    # The first form of `--flag X, -f X` may lack its value in narrow layouts; forms agree.
    return dict(sorted(flags.items()))


def record(base_url: str) -> dict[str, object]:
    """Everything but the flags. Metrics come last: some families appear with the first request."""
    recorder = Recorder(base_url)
    return {
        "cases": {case.name: recorder.record_case(case) for case in CASES},
        "metrics": recorder.record_metrics(),
    }


def differences(expected: object, found: object, where: str = "") -> list[str]:
    """Every place where two recordings differ, as lines that a person can read."""
    if isinstance(expected, dict) and isinstance(found, dict):
        lines = []
        for key in sorted({*expected, *found}):
            inner = f"{where}/{key}"
            if key not in found:
                lines.append(f"{inner}: missing, expected {json.dumps(expected[key])[:200]}")
            elif key not in expected:
                lines.append(f"{inner}: not expected, found {json.dumps(found[key])[:200]}")
            else:
                lines += differences(expected[key], found[key], inner)
        return lines
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = zip(expected, found, strict=True)
        return [
            line
            for index, (one, other) in enumerate(pairs)
            for line in differences(one, other, f"{where}[{index}]")
        ]
    if expected != found:
        return [f"{where}: expected {json.dumps(expected)[:300]}, found {json.dumps(found)[:300]}"]
    return []


def fake_data(recording: Mapping[str, Any]) -> str:
    """`worker_image/fake_engine/recorded.json`: the flags and metric families of a recording."""
    kept = {"flags": recording["flags"], "metrics": recording["metrics"]["families"]}
    return json.dumps(kept, indent=1, sort_keys=True) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Record an engine's HTTP contract.")
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--help-text", type=Path, help="output of `vllm serve --help=all`")
    parser.add_argument("--out", type=Path, help="write the recording here")
    parser.add_argument("--fake-data", type=Path, help="write what the fake engine needs here")
    parser.add_argument("--compare", type=Path, help="compare with this recording")
    options = parser.parse_args(arguments)
    recording = record(options.base_url)
    if options.help_text is not None:
        recording["flags"] = read_flags(options.help_text.read_text(encoding="utf-8"))
    if options.out is not None:
        text = json.dumps(recording, indent=1, sort_keys=True)
        options.out.write_text(text + "\n", encoding="utf-8")
    if options.fake_data is not None:
        options.fake_data.write_text(fake_data(recording), encoding="utf-8")
    if options.compare is not None:
        golden = json.loads(options.compare.read_text(encoding="utf-8"))
        if "flags" not in recording:
            golden.pop("flags", None)
        lines = differences(golden, recording)
        print("\n".join(lines) or "the same")
        return 1 if lines else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
