"""Verifies the model's files against the sha256 sums in launcher.json.

Small files (configuration, tokenizer, templates) are read before the engine starts, because they
steer what it does; the weights are read while it loads, so that verifying costs little time and
the pages are read from disk once. The worker does not become ready before the last file is proved.
Runs in worker threads; `cancel` ends it between two chunks.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .config import FileChecksum, Model
from .failure import CHECKSUM_MISMATCH, MODEL_MISSING, Failure

log = logging.getLogger("launcher")

CHUNK_BYTES = 8 * 1024 * 1024
SMALL_FILE_BYTES = 64 * 1024 * 1024
PROGRESS_EVERY_SECONDS = 5.0


class Cancelled(Exception):
    """Verification was given up because the worker is stopping."""


@dataclass(frozen=True)
class FoundFile:
    """A file to verify: where it is, its size in bytes, the sum it must have."""

    path: Path
    size: int
    checksum: FileChecksum


class Progress:
    """Bytes and files verified so far; written by one thread, read by any."""

    def __init__(self) -> None:
        self.bytes_done = 0
        self.bytes_total = 0
        self.files_done = 0
        self.files_total = 0

    def expect(self, files: Sequence[FoundFile]) -> None:
        """Set the totals; called before the first of `files` is read."""
        self.files_total = len(files)
        self.bytes_total = sum(file.size for file in files)

    @property
    def complete(self) -> bool:
        return self.files_total > 0 and self.files_done == self.files_total


def hub_cache() -> Path:
    """The hub client's cache folder, by the environment variables that the client reads."""
    cache = os.environ.get("HF_HUB_CACHE")
    if cache:
        return Path(cache)
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home) / "hub"
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "huggingface" / "hub"


def require_model(model: Model) -> None:
    """`Failure(66)` when a model named by path is not in this container."""
    if model.kind != "path":
        return
    folder = Path(model.location)
    if not folder.is_dir():
        reason = "it is a file" if folder.exists() else "no such folder"
        raise Failure(
            MODEL_MISSING,
            f"model {model.location} does not exist in this container: {reason}; check model.uri "
            "and the volume or the image that should hold it",
        )
    try:
        empty = next(folder.iterdir(), None) is None
    except OSError as error:
        raise Failure(
            MODEL_MISSING,
            f"model {model.location} cannot be read in this container: {error.strerror}",
        ) from error
    if empty:
        raise Failure(
            MODEL_MISSING, f"model {model.location} does not exist in this container: it is empty"
        )


def find_files(folder: Path, checksums: Sequence[FileChecksum]) -> list[FoundFile]:
    """Each file named in the checksums with its size; `Failure(65)` when one is not there."""
    found = []
    for checksum in checksums:
        path = folder / checksum.path
        try:
            size = path.stat().st_size
        except OSError as error:
            raise Failure(
                CHECKSUM_MISMATCH,
                f"file {path} is named in model.checksums but cannot be read: {error.strerror}",
            ) from error
        found.append(FoundFile(path, size, checksum))
    return found


def find_local_files(model: Model) -> list[FoundFile]:
    """The files to verify before or while the engine loads; none for a model yet to be fetched."""
    if model.kind != "path":
        return []
    return find_files(Path(model.location), model.checksums)


def find_downloaded_files(model: Model) -> list[FoundFile]:
    """The files of a hub model, once the engine has fetched them."""
    if model.revision is None:
        return []
    name = f"models--{model.location.replace('/', '--')}"
    return find_files(hub_cache() / name / "snapshots" / model.revision, model.checksums)


def split_by_size(files: Sequence[FoundFile]) -> tuple[list[FoundFile], list[FoundFile]]:
    """Small files, which are verified before the engine starts, and large ones."""
    small = [file for file in files if file.size <= SMALL_FILE_BYTES]
    return small, [file for file in files if file.size > SMALL_FILE_BYTES]


def verify_files(files: Sequence[FoundFile], progress: Progress, cancel: threading.Event) -> None:
    """Read every file once; `Failure(65)` at the first wrong sum, `Cancelled` when told so."""
    reported = time.monotonic()
    for file in files:
        digest = hashlib.sha256()
        try:
            with file.path.open("rb") as stream:
                while True:
                    if cancel.is_set():
                        raise Cancelled
                    chunk = stream.read(CHUNK_BYTES)
                    if not chunk:
                        break
                    digest.update(chunk)
                    progress.bytes_done += len(chunk)
                    if time.monotonic() - reported >= PROGRESS_EVERY_SECONDS:
                        reported = time.monotonic()
                        log.info(
                            "Verified %d of %d MiB of the model's files",
                            progress.bytes_done >> 20,
                            progress.bytes_total >> 20,
                        )
        except OSError as error:
            raise Failure(
                CHECKSUM_MISMATCH,
                f"file {file.path} could not be read to the end: {error.strerror}",
            ) from error
        if digest.hexdigest() != file.checksum.sha256:
            raise Failure(
                CHECKSUM_MISMATCH,
                f"wrong checksum of {file.path}: expected sha256 {file.checksum.sha256}, found "
                f"{digest.hexdigest()}; the file is not the one that the revision names",
            )
        progress.files_done += 1
    if progress.complete:
        log.info("Verified %d files, %d MiB", progress.files_done, progress.bytes_done >> 20)
