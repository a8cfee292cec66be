"""The cluster's programs, built from Go modules into the cache, in folders named by their inputs.

It decides when a build is needed (the folder does not exist) and never uses a program that
happens to be installed. `up` and the tests that start an API server of their own call it. Beside
the programs: the HTTPRoute's own CustomResourceDefinition, from the Gateway API's Go module.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.inputs import hash_inputs
from e2e.cluster.places import REPOSITORY, Places
from e2e.cluster.steps import CannotContinueError, run, step

KUBERNETES = "v1.35.3"
COREDNS = "v1.14.1"
GATEWAY_API = "v1.4.0"
# Of the module, as a go.sum would have it: what is downloaded must be this.
GATEWAY_API_SUM = "h1:ZwlNM6zOHq0h3WUX2gfByPs2yAEsy/EenYJB78jpQfQ="
HTTP_ROUTE_CRD = "gateway.networking.k8s.io_httproutes.yaml"
OLDEST_GO = (1, 26)
KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
)
_HERE = REPOSITORY / "e2e" / "cluster"
_BUILD_LIMIT = 3600.0  # seconds; 7 minutes on two free cores, far more on busy ones


@dataclass(frozen=True)
class Build:
    """A set of programs that one build makes: `make` fills the folder that it is given."""

    name: str
    programs: tuple[str, ...]
    inputs: str
    cost: str
    make: Callable[[Path], object]

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.inputs}"


def list_builds() -> tuple[Build, ...]:
    """The builds, each named by the hash of its sources and options."""
    module = _HERE / "kubernetes"
    pause = _HERE / "pause"
    return (
        Build(
            "kubernetes",
            KUBERNETES_PROGRAMS,
            hash_inputs(_HERE, [module], KUBERNETES),
            "about 7 minutes",
            lambda out: _build_kubernetes(module, out),
        ),
        Build(
            "coredns",
            ("coredns",),
            hash_inputs(_HERE, [], COREDNS),
            "about 2 minutes",
            _build_coredns,
        ),
        Build(
            "pause",
            ("pause",),
            hash_inputs(_HERE, [pause]),
            "seconds",
            lambda out: _go(["build", "-o", str(out / "pause"), "."], cwd=pause),
        ),
        Build(
            "gateway-api",
            (HTTP_ROUTE_CRD,),
            hash_inputs(_HERE, [], f"{GATEWAY_API} {GATEWAY_API_SUM}"),
            "seconds",
            _take_route_crd,
        ),
    )


def ensure_binaries(places: Places) -> None:
    """Build what the cache lacks, and point `<cache>/bin/<program>` at it."""
    places.bin.mkdir(parents=True, exist_ok=True)
    with (places.bin / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for build in list_builds():
            target = places.bin / build.folder
            if not target.is_dir():
                _build(build, target)
            for program in build.programs:
                _point(places.bin / program, target / program)


def _build(build: Build, target: Path) -> None:
    _require_go()
    with step(f"Building {build.name} from Go modules ({build.cost} on two cores, once)"):
        # A folder beside the target, renamed when complete: a build that was cut short leaves
        # nothing that looks finished.
        scratch = Path(tempfile.mkdtemp(prefix=f".{build.name}-", dir=target.parent))
        try:
            build.make(scratch)
            missing = [p for p in build.programs if not (scratch / p).is_file()]
            if missing:
                raise CannotContinueError(f"The build of {build.name} made no {missing[0]}.")
            scratch.chmod(0o755)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _point(link: Path, target: Path) -> None:
    wanted = os.path.relpath(target, link.parent)
    if link.is_symlink() and str(link.readlink()) == wanted:
        return
    scratch = link.with_name(f".{link.name}.new")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(wanted)
    scratch.replace(link)


def _build_kubernetes(module: Path, out: Path) -> None:
    version = "k8s.io/component-base/version"
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    flags = " ".join(
        [
            "-s -w",
            f"-X {version}.gitVersion={KUBERNETES}",
            f"-X {version}.gitMajor={major}",
            f"-X {version}.gitMinor={minor}",
            f"-X {version}.gitCommit=unknown",
            f"-X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES}",
        ]
    )
    packages = [f"k8s.io/kubernetes/cmd/{p}" for p in KUBERNETES_PROGRAMS]
    _go(["build", "-ldflags", flags, "-o", f"{out}/", *packages], cwd=module)


def _build_coredns(out: Path) -> None:
    _go(["install", "-ldflags", "-s -w", f"github.com/coredns/coredns@{COREDNS}"], gobin=out)


def _take_route_crd(out: Path) -> None:
    """The standard channel's file, out of the module: 340 kB that nobody needs here."""
    module = f"sigs.k8s.io/gateway-api@{GATEWAY_API}"
    # Outside of any module, or the one of the current folder would be asked for it.
    found = json.loads(_go(["mod", "download", "-json", module], cwd=out))
    if found["Sum"] != GATEWAY_API_SUM:
        raise CannotContinueError(
            f"The module {module} has the sum {found['Sum']}, not {GATEWAY_API_SUM}: it is not "
            "the one that was tested."
        )
    shutil.copyfile(
        Path(found["Dir"]) / "config" / "crd" / "standard" / HTTP_ROUTE_CRD, out / HTTP_ROUTE_CRD
    )


def _go(arguments: list[str], *, cwd: Path | None = None, gobin: Path | None = None) -> str:
    env = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-trimpath -mod=readonly",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    if gobin is not None:
        env["GOBIN"] = str(gobin)
    return run(["nice", "-n", "10", "go", *arguments], env=env, cwd=cwd, timeout=_BUILD_LIMIT)


def _require_go() -> None:
    wanted = ".".join(map(str, OLDEST_GO))
    if shutil.which("go") is None:
        raise CannotContinueError(
            f"Go {wanted} or newer is needed to build Kubernetes, and `go` is not on the PATH. "
            "Debian 12's own package is too old: install the one from the Go project."
        )
    version = parse_go_version(run(["go", "env", "GOVERSION"]))
    if version < OLDEST_GO:
        found = ".".join(map(str, version))
        raise CannotContinueError(f"Go {wanted} or newer is needed, this is Go {found}.")


def parse_go_version(text: str) -> tuple[int, int]:
    """`go1.26.8` -> (1, 26). Raises CannotContinueError for text that is no version."""
    match = re.match(r"go(\d+)\.(\d+)", text.strip())
    if match is None:
        raise CannotContinueError(f"`go env GOVERSION` answered {text.strip()!r}, no version.")
    return int(match[1]), int(match[2])
