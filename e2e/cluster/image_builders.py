"""Building an image with the Docker engine or with buildah, and handing it to a cluster.

Both builders see a context folder that holds the declared inputs and nothing else, so a file
that is not part of the tag's hash cannot get into the image.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from e2e.cluster.image_specs import Image
from e2e.cluster.inputs import list_files
from e2e.cluster.leftovers import ctr, make_ctr_command
from e2e.cluster.places import KIND_NAME, REPOSITORY, Places
from e2e.cluster.steps import CannotContinueError, run, step, succeeds

_BUILD_LIMIT = 3600.0
_LOAD_LIMIT = 1800.0
_MANY_BYTES = 64 << 20  # above this, compressing new layers would cost more than writing all


class Builder(Protocol):
    """Makes images and can write them where a cluster reads them."""

    def has(self, tag: str) -> bool: ...
    def build(self, image: Image, base_tag: str | None) -> None: ...
    def list_tags(self) -> set[str]: ...
    def remove(self, tag: str) -> None: ...


class Cluster(Protocol):
    """Holds images that pods can use."""

    def list_tags(self) -> set[str]: ...
    def load(self, tag: str) -> None: ...
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
        run(self.command("rmi", tag), timeout=_LOAD_LIMIT)


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
        run(["docker", "rmi", tag], timeout=_LOAD_LIMIT)


@dataclass(frozen=True)
class NodeImages:
    """The images of the single node, in its containerd."""

    places: Places
    buildah: Buildah

    def list_tags(self) -> set[str]:
        return set(ctr(self.places, "images", "list", "--quiet").split())

    def remove(self, tag: str) -> None:
        ctr(self.places, "images", "rm", tag)

    def load(self, tag: str) -> None:
        """Hand over only the layers that containerd does not have yet: a changed last layer costs
        seconds, whatever the size of the image."""
        with tempfile.TemporaryDirectory(prefix=".load-", dir=self.places.cache) as scratch:
            layout = Path(scratch) / "layout"
            layers = self._list_layers(tag)
            held = {digest for digest in layers if (self._content / digest).is_file()}
            if sum(size for digest, size in layers.items() if digest not in held) > _MANY_BYTES:
                self._export_plain(tag, layout)
            else:
                self._export_beside(tag, layout, held)
            self._import(layout, left_out=held)

    @property
    def _content(self) -> Path:
        return self.places.containerd_root / "io.containerd.content.v1.content/blobs/sha256"

    def _list_layers(self, tag: str) -> dict[str, int]:
        """Digest and size in bytes of each layer as buildah stores it, uncompressed."""
        described = json.loads(run(self.buildah.command("inspect", "--type", "image", tag)))
        manifest = json.loads(described["Manifest"])
        return {_hex(layer["digest"]): layer["size"] for layer in manifest["layers"]}

    def _export_plain(self, tag: str, layout: Path) -> None:
        """Write every layer, uncompressed: for gigabytes, compressing takes longer than writing.
        Of buildah's destinations only `dir` leaves layers as they are."""
        blobs = layout / "blobs" / "sha256"
        blobs.parent.mkdir(parents=True)
        self._push("--disable-compression", tag, f"dir:{blobs}")
        (blobs / "version").unlink()
        manifest = (blobs / "manifest.json").read_bytes()
        digest = hashlib.sha256(manifest).hexdigest()
        (blobs / "manifest.json").rename(blobs / digest)
        entry = {
            "mediaType": json.loads(manifest)["mediaType"],
            "digest": f"sha256:{digest}",
            "size": len(manifest),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }
        (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def _export_beside(self, tag: str, layout: Path, held: set[str]) -> None:
        """Write the missing layers beside links to those that containerd holds: buildah skips
        what its destination has already."""
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for digest in held:
            (blobs / digest).hardlink_to(self._content / digest)
        self._push(tag, f"oci:{layout}:{tag}")

    def _push(self, *words: str) -> None:
        run(
            self.buildah.command("push", "--quiet", *words),
            timeout=_LOAD_LIMIT,
            env={**os.environ, "TMPDIR": str(self.places.cache)},
        )

    def _import(self, layout: Path, left_out: set[str]) -> None:
        command = [*make_ctr_command(self.places), "images", "import", "-"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as reader:
            assert reader.stdin is not None
            assert reader.stdout is not None
            broken = False
            try:
                with tarfile.open(fileobj=reader.stdin, mode="w|") as archive:
                    for file in list_files([layout]):
                        if file.name not in left_out:
                            archive.add(file, str(file.relative_to(layout)))
                reader.stdin.close()
            except BrokenPipeError:
                broken = True  # it ended early: what it said tells why
            said = reader.stdout.read().decode(errors="replace")
        if broken or reader.returncode != 0:
            raise CannotContinueError(f"containerd did not take the image: {said.strip()[-1000:]}")


@dataclass(frozen=True)
class KindImages:
    """The images of a kind cluster."""

    def list_tags(self) -> set[str]:
        node = f"{KIND_NAME}-control-plane"
        listed = run(["docker", "exec", node, "ctr", "-n", "k8s.io", "images", "list", "-q"])
        return set(listed.split())

    def load(self, tag: str) -> None:
        run(["kind", "load", "docker-image", "--name", KIND_NAME, tag], timeout=_LOAD_LIMIT)

    def remove(self, tag: str) -> None:
        node = f"{KIND_NAME}-control-plane"
        run(["docker", "exec", node, "ctr", "-n", "k8s.io", "images", "rm", tag])


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def docker_answers() -> bool:
    """Whether a Docker engine can be used, not merely its client."""
    try:
        return succeeds(["docker", "info"], timeout=20)
    except (OSError, subprocess.SubprocessError):
        return False


@contextmanager
def _alone(places: Places, what: str) -> Iterator[None]:
    """One process at a time works on an image; others build other images meanwhile."""
    places.cache.mkdir(parents=True, exist_ok=True)
    with (places.cache / f".image-{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_image(places: Places, images: dict[str, Image], what: str, builder: Builder) -> None:
    """Build an image, its parent first, unless the builder's store has the tag already."""
    image = images[what]
    with _alone(places, f"build-{what}"):
        if builder.has(image.tag):
            return
        if image.parent is not None:
            build_image(places, images, image.parent, builder)
        with step(f"Building {image.tag} ({image.cost})"):
            builder.build(image, images[image.parent].tag if image.parent else None)


def ensure_loaded(
    places: Places, images: dict[str, Image], wanted: list[str], builder: Builder, cluster: Cluster
) -> None:
    """Build what is missing and load it, one image at a time; what the cluster has is left."""
    for what in wanted:
        tag = images[what].tag
        with _alone(places, f"load-{what}"):
            if tag not in cluster.list_tags():
                build_image(places, images, what, builder)
                with step(f"Loading {tag} into the cluster"):
                    cluster.load(tag)


def choose_stale(present: set[str], current: set[str]) -> list[str]:
    """Of the images present, those of this project whose sources are no longer the current ones.
    Images that are not of this project are never named."""
    names = {tag.rsplit(":", 1)[0] for tag in current}
    return sorted(t for t in present - current if t.rsplit(":", 1)[0] in names)


def prune(images: dict[str, Image], builder: Builder, cluster: Cluster) -> None:
    """Remove the images of older sources from the cluster and from the builder's store."""
    current = {image.tag for image in images.values()}
    for holder, where in ((cluster, "the cluster"), (builder, "the store")):
        for tag in choose_stale(holder.list_tags(), current):
            with step(f"Removing {tag} from {where}"):
                holder.remove(tag)
