"""The clusters' own stores of images: listing them, and handing them what a builder made."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from e2e.cluster.image_builders import Buildah
from e2e.cluster.inputs import list_files
from e2e.cluster.leftovers import ctr, make_ctr_command
from e2e.cluster.places import KIND_NAME, Places
from e2e.cluster.steps import CannotContinueError, run

_LOAD_LIMIT = 1800.0
_MANY_BYTES = 64 << 20  # above this, compressing new layers would cost more than writing all


class Cluster(Protocol):
    """Holds images that pods can use."""

    def list_tags(self) -> set[str]: ...
    def load(self, tag: str) -> None: ...
    def remove(self, tag: str) -> None: ...


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
