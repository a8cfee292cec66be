"""launcher.json: the contract between the operator, which writes it, and the launcher.

`read_config` turns the file into frozen dataclasses, or raises `Failure(64)` whose message names
the field, what was expected and what was found. Unknown fields are errors: a field that is
silently ignored is a setting that someone believes to be on. The operator stores this file in the
revision's own ConfigMap, so a launcher must go on reading every schemaVersion it ever read.

Times are in seconds. The whole schema is documented in docs of the dataclasses below and in
`worker_image/launcher/README.md`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .engine_arguments import refused_arguments
from .failure import BAD_CONFIGURATION, Failure

SCHEMA_VERSION = 1
MAX_CONFIG_BYTES = 1024 * 1024
DTYPES = ("auto", "bfloat16", "float", "float16", "float32", "half")

_SHA256 = re.compile(r"^(?:sha256:)?([0-9a-f]{64})$")
_HUB_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True)
class FileChecksum:
    """`path` is relative to the model's folder; `sha256` is 64 lower-case hex digits."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Model:
    """What to serve. `kind` says how `location` is read:

    path  a folder in this container (an image, a claim, an image volume)
    hub   `org/name` on the model hub, with `revision` a 40-digit commit
    s3    an `s3://` address that vLLM streams itself; its files cannot be checksummed here
    """

    kind: str
    location: str
    revision: str | None
    served_name: str
    checksums: tuple[FileChecksum, ...]


@dataclass(frozen=True)
class Engine:
    """The typed engine arguments; None leaves vLLM's own default."""

    max_model_len: int | None
    dtype: str
    tensor_parallel_size: int
    gpu_memory_utilization: float | None
    extra_args: tuple[str, ...]


@dataclass(frozen=True)
class IdleProbe:
    """One generated token every `interval` while idle; `failures` in a row make it not ready.

    `busy_interval` applies while other requests run: the traffic itself keeps the engine busy, and
    the probe only has to notice a hang.
    """

    interval: float
    failures: int
    timeout: float
    busy_interval: float


@dataclass(frozen=True)
class Warmup:
    """`requests` generations of `max_tokens` tokens before the worker is ready; 0 skips them."""

    requests: int
    max_tokens: int
    timeout: float


@dataclass(frozen=True)
class Config:
    """The whole of launcher.json."""

    model: Model
    engine: Engine
    chat_template_file: str | None
    listen_host: str
    engine_port: int
    launcher_port: int
    start_timeout: float
    drain_wait: float
    drain_lapse: float
    shutdown_timeout: int
    kill_margin: float
    idle_probe: IdleProbe
    warmup: Warmup
    tap: bool  # whether the engine runs the tap (docs/worker-tap.md)


class _Fields:
    """One JSON object being read: every field is taken by name, and none may be left over."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise _bad(where or "the file", "an object", value)
        self._left: dict[str, object] = dict(value)
        self._where = where

    def _name(self, field: str) -> str:
        return f"{self._where}.{field}" if self._where else field

    def _take(self, field: str, default: object) -> object:
        if field in self._left:
            value = self._left.pop(field)
            if value is not None or default is None:
                return value
            raise _bad(self._name(field), "a value", value)
        if default is _REQUIRED:
            raise Failure(
                BAD_CONFIGURATION, f"launcher.json: the field {self._name(field)} is missing"
            )
        return default

    def text(self, field: str, default: object = None) -> str | None:
        value = self._take(field, default)
        if value is None:
            return None
        if not isinstance(value, str) or not value or "\0" in value:
            raise _bad(self._name(field), "a non-empty string", value)
        return value

    def required_text(self, field: str, default: object = None) -> str:
        value = self.text(field, _REQUIRED if default is None else default)
        if value is None:
            raise _bad(self._name(field), "a non-empty string", value)
        return value

    def integer(self, field: str, default: object, low: int, high: int) -> int | None:
        value = self._take(field, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _bad(self._name(field), f"a whole number from {low} to {high}", value)
        return value

    def required_integer(self, field: str, default: object, low: int, high: int) -> int:
        value = self.integer(field, default, low, high)
        if value is None:
            raise _bad(self._name(field), f"a whole number from {low} to {high}", value)
        return value

    def number(self, field: str, default: object, low: float, high: float) -> float | None:
        value = self._take(field, default)
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not low <= value <= high
        ):
            raise _bad(self._name(field), f"a number from {low:g} to {high:g}", value)
        return float(value)

    def required_number(self, field: str, default: float, low: float, high: float) -> float:
        value = self.number(field, default, low, high)
        if value is None:
            raise _bad(self._name(field), f"a number from {low:g} to {high:g}", value)
        return value

    def flag(self, field: str, *, default: bool) -> bool:
        value = self._take(field, default)
        if not isinstance(value, bool):
            raise _bad(self._name(field), "true or false", value)
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        value = self._take(field, ())
        if value == ():
            return ()
        if not isinstance(value, list) or not all(
            isinstance(item, str) and "\0" not in item for item in value
        ):
            raise _bad(self._name(field), "a list of strings", value)
        return tuple(str(item) for item in value)

    def mapping(self, field: str) -> Mapping[str, object]:
        value = self._take(field, {})
        if not isinstance(value, dict):
            raise _bad(self._name(field), "an object", value)
        return value

    def inner(self, field: str, *, required: bool = False) -> _Fields:
        return _Fields(self._take(field, _REQUIRED if required else {}), self._name(field))

    def finish(self) -> None:
        if self._left:
            names = ", ".join(self._name(field) for field in sorted(self._left))
            raise Failure(
                BAD_CONFIGURATION,
                f"launcher.json: unknown field {names}; this launcher reads schemaVersion "
                f"{SCHEMA_VERSION}, see its README for the fields",
            )


_REQUIRED = object()


def _bad(where: str, expected: str, found: object) -> Failure:
    shown = json.dumps(found, default=str)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return Failure(BAD_CONFIGURATION, f"launcher.json: {where} must be {expected}, found {shown}")


def read_config(path: Path) -> Config:
    """Read and check launcher.json; `Failure(64)` says what is wrong."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise Failure(BAD_CONFIGURATION, f"cannot read {path}: {reason}") from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise Failure(BAD_CONFIGURATION, f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise Failure(BAD_CONFIGURATION, f"{path} is not valid JSON: {error}") from error
    return parse_config(document)


def parse_config(document: object) -> Config:
    """Turn the decoded JSON into a `Config`; `Failure(64)` says what is wrong."""
    fields = _Fields(document, "")
    version = fields.integer("schemaVersion", _REQUIRED, 0, 2**31)
    if version != SCHEMA_VERSION:
        raise Failure(
            BAD_CONFIGURATION,
            f"launcher.json: schemaVersion must be {SCHEMA_VERSION}, found {version}; the "
            "launcher's image does not match the operator that wrote the file",
        )
    config = Config(
        model=_read_model(fields.inner("model", required=True)),
        engine=_read_engine(fields.inner("engine")),
        chat_template_file=fields.text("chatTemplateFile"),
        listen_host=fields.required_text("listenHost", "0.0.0.0"),
        engine_port=fields.required_integer("enginePort", 8000, 1, 65535),
        launcher_port=fields.required_integer("launcherPort", 8090, 1, 65535),
        start_timeout=fields.required_number("startTimeoutSeconds", 3600.0, 1, 7 * 86400),
        drain_wait=fields.required_number("drainWaitSeconds", 5.0, 0, 3600),
        drain_lapse=fields.required_number("drainLapseSeconds", 60.0, 0.1, 3600),
        shutdown_timeout=fields.required_integer("shutdownTimeoutSeconds", 30, 0, 7 * 86400),
        kill_margin=fields.required_number("killMarginSeconds", 15.0, 0.1, 600),
        idle_probe=_read_idle_probe(fields.inner("idleProbe")),
        warmup=_read_warmup(fields.inner("warmup")),
        tap=fields.flag("tap", default=True),
    )
    fields.finish()
    if config.engine_port == config.launcher_port:
        raise Failure(
            BAD_CONFIGURATION,
            f"launcher.json: enginePort and launcherPort are both {config.engine_port}",
        )
    return config


def _read_model(fields: _Fields) -> Model:
    kind = fields.required_text("kind")
    revision: str | None = None
    if kind == "path":
        location = fields.required_text("path")
        if not location.startswith("/"):
            raise _bad("model.path", "an absolute path", location)
    elif kind == "hub":
        location = fields.required_text("repo")
        if not _HUB_NAME.match(location):
            raise _bad("model.repo", "org/name", location)
        revision = fields.required_text("revision")
        if not _COMMIT.match(revision):
            raise _bad("model.revision", "a commit of 40 hex digits", revision)
    elif kind == "s3":
        location = fields.required_text("uri")
        if not location.startswith("s3://"):
            raise _bad("model.uri", "an address that starts with s3://", location)
    else:
        raise _bad("model.kind", "path, hub or s3", kind)
    checksums = _read_checksums(fields.mapping("checksums"))
    if kind == "s3" and checksums:
        raise Failure(
            BAD_CONFIGURATION,
            "launcher.json: model.checksums cannot be verified for an s3 model, because vLLM "
            "streams its files; remove them or serve the model from a claim or an image",
        )
    served_name = fields.required_text("servedName")
    fields.finish()
    return Model(kind, location, revision, served_name, checksums)


def _read_checksums(mapping: Mapping[str, object]) -> tuple[FileChecksum, ...]:
    checksums = []
    for path, value in sorted(mapping.items()):
        parts = path.split("/")
        if not path or path.startswith("/") or ".." in parts or "\0" in path:
            raise _bad("a file name in model.checksums", "a path inside the model", path)
        match = _SHA256.match(value) if isinstance(value, str) else None
        if match is None:
            raise _bad(f"model.checksums[{path}]", "a sha256 of 64 hex digits", value)
        checksums.append(FileChecksum(path, match.group(1)))
    return tuple(checksums)


def _read_engine(fields: _Fields) -> Engine:
    dtype = fields.required_text("dtype", "auto")
    if dtype not in DTYPES:
        raise _bad("engine.dtype", "one of " + ", ".join(DTYPES), dtype)
    engine = Engine(
        max_model_len=fields.integer("maxModelLen", None, 1, 2**31),
        dtype=dtype,
        tensor_parallel_size=fields.required_integer("tensorParallelSize", 1, 1, 1024),
        gpu_memory_utilization=fields.number("gpuMemoryUtilization", None, 0.01, 1.0),
        extra_args=fields.texts("extraArgs"),
    )
    fields.finish()
    problem = refused_arguments(engine.extra_args)
    if problem is not None:
        raise Failure(BAD_CONFIGURATION, f"launcher.json: engine.extraArgs: {problem}")
    return engine


def _read_idle_probe(fields: _Fields) -> IdleProbe:
    probe = IdleProbe(
        interval=fields.required_number("intervalSeconds", 1.0, 0.05, 3600),
        failures=fields.required_integer("failures", 3, 1, 1000),
        timeout=fields.required_number("timeoutSeconds", 2.0, 0.05, 3600),
        busy_interval=fields.required_number("busyIntervalSeconds", 5.0, 0.05, 3600),
    )
    fields.finish()
    return probe


def _read_warmup(fields: _Fields) -> Warmup:
    warmup = Warmup(
        requests=fields.required_integer("requests", 2, 0, 1000),
        max_tokens=fields.required_integer("maxTokens", 8, 1, 4096),
        timeout=fields.required_number("timeoutSeconds", 300.0, 0.1, 86400),
    )
    fields.finish()
    return warmup
