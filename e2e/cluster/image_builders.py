"""Building an image with the Docker engine or with buildah.

Both builders see a context folder that holds the declared inputs and nothing else, so a file
that is not part of the tag's hash cannot get into the image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from e2e.cluster.image_specs import Image
from e2e.cluster.inputs import list_files
from e2e.cluster.places import REPOSITORY, Places
from e2e.cluster.steps import CannotContinueError, run, succeeds

_BUILD_LIMIT = 3600.0
_REMOVE_LIMIT = 600.0


class Builder(Protocol):
    """Makes images and keeps them in a store of its own."""

    def has(self, tag: str) -> bool: ...
    def build(self, image: Image, base_tag: str | None) -> None: ...
    def list_tags(self) -> set[str]: ...
    def remove(self, tag: str) -> None: ...


@contextmanager
def _context(image: Image, places: Places) -> Iterator[Path]:
    # Beside the cache, not in /tmp: a base archive may not fit into a small memory-backed /tmp.
    places.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".context-{image.what}-", dir=places.cache) as name:
        root = Path(name)
        shutil.copy(image.dockerfile, root / "Dockerfile")
        for target, source in image.files:
            for file in list_files([source]):
                inside = root / target / file.relative_to(source) if source.is_dir() else (
                    root / target
                )  # fmt: skip
                inside.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, inside)
        if image.what == "base":
            _make_base_archive(root)
        yield root


def _make_base_archive(root: Path) -> None:
    """The root file system of a small Debian, made from packages: no registry of images needed."""
    if shutil.which("mmdebstrap") is None:
        raise CannotContinueError("mmdebstrap is not installed: `make setup` installs it.")
    lines = (REPOSITORY / "images" / "base" / "packages.txt").read_text().splitlines()
    packages = [word for line in lines if (word := line.split("#")[0].strip())]
    run(
        ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}",
         "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
         "--dpkgopt=path-exclude=/usr/share/locale/*", "bookworm", root / "base.tar"],
        timeout=_BUILD_LIMIT,
    )  # fmt: skip


@dataclass(frozen=True)
class Buildah:
    """Builds without a daemon, in a store of its own below the cache."""

    places: Places

    def command(self, *words: str | Path) -> list[str | Path]:
        store = self.places.image_store
        return ["buildah", "--root", store / "root", "--runroot", store / "run", *words]

    def has(self, tag: str) -> bool:
        return succeeds(self.command("inspect", "--type", "image", tag))

    def build(self, image: Image, base_tag: str | None) -> None:
        base = ["--build-arg", f"BASE={base_tag}"] if base_tag else []
        # Downloads inside the build use this machine's trusted certificates and pip settings.
        mounts = ["--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"]
        if Path("/etc/pip.conf").is_file():
            mounts += ["--volume", "/etc/pip.conf:/etc/pip.conf:ro"]
        if image.parent is None:
            mounts = []  # built from scratch: nothing runs inside
        with _context(image, self.places) as context:
            run(
                ["nice", "-n", "10", *self.command("bud"), "--isolation", "chroot",
                 "--network", "host", "--layers", "--pull-never", "--quiet", *mounts, *base,
                 "--tag", image.tag, "--file", context / "Dockerfile", context],
                timeout=_BUILD_LIMIT,
                env={**os.environ, "TMPDIR": str(self.places.cache)},
            )  # fmt: skip

    def list_tags(self) -> set[str]:
        return set(run(self.command("images", "--format", "{{.Name}}:{{.Tag}}")).split())

    def remove(self, tag: str) -> None:
        run(self.command("rmi", tag), timeout=_REMOVE_LIMIT)


@dataclass(frozen=True)
class Docker:
    """Builds with the Docker engine that kind uses too."""

    places: Places

    def has(self, tag: str) -> bool:
        return succeeds(["docker", "image", "inspect", tag])

    def build(self, image: Image, base_tag: str | None) -> None:
        base = ["--build-arg", f"BASE={base_tag}"] if base_tag else []
        with _context(image, self.places) as context:
            run(["docker", "build", "--quiet", *base, "--tag", image.tag, context],
                timeout=_BUILD_LIMIT)  # fmt: skip

    def list_tags(self) -> set[str]:
        return set(run(["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"]).split())

    def remove(self, tag: str) -> None:
        run(["docker", "rmi", tag], timeout=_REMOVE_LIMIT)


def docker_answers() -> bool:
    """Whether a Docker engine can be used, not merely its client."""
    try:
        return succeeds(["docker", "info"], timeout=20)
    except (OSError, subprocess.SubprocessError):
        return False
