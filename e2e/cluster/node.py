"""The single node: what must run, in which order, and how it is mended.

`up` looks at what is there and does only what is missing, so it starts a new cluster, a stopped
one, a half-started one and one whose programs died, all the same way. `down` stops everything
that this cluster started. Called by __main__.py and by the end-to-end tests that take parts of
the control plane away (`stop_component`, `start_component`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster import configuration, leftovers, network, probes, processes
from e2e.cluster import places as at
from e2e.cluster.binaries import ensure_binaries
from e2e.cluster.certificates import ensure_certificates
from e2e.cluster.configuration import Component
from e2e.cluster.image_builders import Buildah
from e2e.cluster.image_holders import NodeImages
from e2e.cluster.image_loading import ensure_loaded
from e2e.cluster.image_specs import NODE_IMAGES, describe_images
from e2e.cluster.places import REPOSITORY, Places
from e2e.cluster.steps import CannotContinueError, run, say, step, wait_until

_USERS = ("admin", "controller-manager", "scheduler", "proxy", "kubelet")
_SICK_AFTER = 10.0  # seconds of silence after which a program that runs is started again


@contextmanager
def locked(places: Places) -> Iterator[None]:
    """One `up`, `down` or `reset` at a time; a second one waits."""
    places.cache.mkdir(parents=True, exist_ok=True)
    with (places.cache / ".cluster.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another make target works on the cluster: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(places: Places) -> None:
    """Bring the cluster to the state where a pod can be started and names resolve.

    Raises CannotContinueError with what is wrong and where the log is.
    """
    network.require_root()
    ensure_binaries(places)
    foreign = processes.list_foreign(_owner(places))
    if foreign:
        raise CannotContinueError(
            f"Another cluster of this kind runs on this machine, with its state in {foreign[0]}. "
            f"Stop it first: LLMR_CACHE={Path(foreign[0]).parent} make cluster-down"
        )
    images = describe_images(places, local_base=True)
    if not network.namespace_exists():
        # Whatever of ours still runs lives in a namespace that has no name any more.
        _stop_everything(places)
    with step(f"Network namespace {at.NAMESPACE}, {at.NODE_ADDRESS}, routes to pods and Services"):
        network.ensure_network()
        leftovers.ensure_cgroups()
    files = _write_configuration(places, images["pause"].tag)
    components = configuration.list_components(places, files)
    for component in components:
        if component.name == "kubelet":
            # The sandbox image must be there before the first pod.
            store = NodeImages(places, Buildah(places))
            ensure_loaded(places, images, list(NODE_IMAGES), Buildah(places), store)
        _ensure_component(places, component)
    with step("Waiting for the node to be Ready"):
        _wait_for_node(places)
    with step("Cluster DNS (CoreDNS), until it resolves a Service"):
        _ensure_dns(places, images["coredns"].tag)
    link = REPOSITORY / ".state" / "kubeconfig"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(places.kubeconfig)


def down(places: Places) -> None:
    """Stop every program, container and shim, and remove the network. Objects stay in the store."""
    network.require_root()
    _stop_everything(places)
    with step("Removing the network namespace and its link"):
        network.delete_network()
    with step("Writing what is in memory to the disk"):
        os.sync()


def reset(places: Places) -> None:
    """`down`, then forget every object, volume and certificate. Binaries and images stay."""
    down(places)
    with step(f"Deleting {places.cluster}"):
        if places.cluster.exists():
            shutil.rmtree(places.cluster)


def stop_component(places: Places, name: str) -> None:
    """Stop one program and leave it stopped, for tests that take it away."""
    component = _find(places, name)
    processes.stop(_pid_file(places, name), component.stop_within)


def start_component(places: Places, name: str) -> None:
    """Start one program again and wait until it is ready."""
    _ensure_component(places, _find(places, name))


def report(places: Places) -> list[tuple[str, str, str]]:
    """For each program: its name, `running`, `not answering` or `stopped`, and its log."""
    rows = []
    for component in _list_components(places):
        identity = processes.read_identity(_pid_file(places, component.name))
        state = "stopped"
        if identity is not None and processes.is_alive(identity):
            state = "running" if probes.answers(component.health) else "not answering"
        rows.append((component.name, state, str(_log(places, component.name))))
    return rows


def _owner(places: Places) -> str:
    return str(places.cluster)


def _pid_file(places: Places, name: str) -> Path:
    return places.run / f"{name}.pid"


def _log(places: Places, name: str) -> Path:
    return places.logs / f"{name}.log"


def _list_components(places: Places) -> tuple[Component, ...]:
    images = describe_images(places, local_base=True)
    if not (places.pki / "admin.crt").is_file():
        return ()
    return configuration.list_components(places, _make_files(places, images["pause"].tag))


def _find(places: Places, name: str) -> Component:
    components = {c.name: c for c in _list_components(places)}
    if name not in components:
        raise CannotContinueError(
            f"The cluster has no program {name!r}, only {', '.join(components) or 'none yet'}."
        )
    return components[name]


def _make_files(places: Places, pause_image: str) -> dict[str, str]:
    pki = places.pki
    return {
        "containerd.toml": configuration.make_containerd_config(places, pause_image),
        "kubelet.json": configuration.make_kubelet_config(places),
        "cni/10-llmr.conflist": configuration.make_cni_config(places),
        "certificates": "".join(f.read_text() for f in sorted(pki.glob("*.inputs"))),
    }


def _write_configuration(places: Places, pause_image: str) -> dict[str, str]:
    for folder in (places.run, places.logs, places.cluster / "cni"):
        folder.mkdir(parents=True, exist_ok=True)
    (places.cluster / "kubelet").mkdir(mode=0o750, exist_ok=True)
    if not (places.pki / "ca.crt").is_file():
        with step("Certificates"):
            ensure_certificates(places.pki)
    ensure_certificates(places.pki)
    files = _make_files(places, pause_image)
    for name, text in files.items():
        if name != "certificates":
            _write_if_changed(places.cluster / name, text, 0o644)
    for user in _USERS:
        text = configuration.make_kubeconfig(places.pki, user)
        _write_if_changed(places.cluster / f"{user}.kubeconfig", text, 0o600)
    return files


def _write_if_changed(file: Path, text: str, mode: int) -> None:
    if file.is_file() and file.read_text() == text:
        return
    scratch = file.with_name(file.name + ".new")
    scratch.write_text(text)
    scratch.chmod(mode)
    scratch.replace(file)


def _ensure_component(places: Places, component: Component) -> None:
    pid_file = _pid_file(places, component.name)
    identity = processes.read_identity(pid_file)
    if identity is not None and processes.is_alive(identity):
        wanted = processes.hash_command(component.arguments, component.configuration)
        if identity.command == wanted:
            if wait_until(lambda: probes.answers(component.health), within=_SICK_AFTER):
                return
            why = f"{component.name} runs but does not answer: starting it again"
        else:
            why = f"{component.name} is set up in another way now: starting it again"
        with step(why):
            processes.stop(pid_file, component.stop_within)
            _start(places, component)
        return
    with step(f"Starting {component.name}"):
        try:
            _start(places, component)
        except CannotContinueError as problem:
            store = places.cluster / "etcd"
            broken = component.name == "etcd" and leftovers.tells_of_a_broken_store(str(problem))
            if not (broken and store.exists()):
                raise
            _set_aside(places, store, problem)
            _start(places, component)


def _start(places: Places, component: Component) -> None:
    if probes.answers(component.health):
        # One of ours whose pid file was lost holds the address: the new one could not start.
        _kill_strays(places, component)
    log = _log(places, component.name)
    identity = processes.start(
        component.arguments,
        pid_file=_pid_file(places, component.name),
        log=log,
        owner=_owner(places),
        namespace=network.NAMESPACE_FILE,
        configuration=component.configuration,
    )
    ready = wait_until(
        lambda: not processes.is_alive(identity) or probes.answers(component.health),
        within=component.ready_within,
    )
    alive = processes.is_alive(identity)
    if not (ready and alive):
        what = f"did not answer within {component.ready_within:.0f} s" if alive else "ended at once"
        processes.stop(_pid_file(places, component.name), component.stop_within)
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise CannotContinueError(f"{component.name} {what}. The end of {log}:\n{tail}")


def _kill_strays(places: Places, component: Component) -> None:
    program = Path(component.arguments[0]).name
    owned = processes.list_owned(_owner(places))
    processes.kill_all([i for i in owned if processes.program_name(i) == program])


def _set_aside(places: Places, store: Path, problem: CannotContinueError) -> None:
    """A store that a power cut broke is moved away: an empty cluster is worth more than none."""
    aside = places.cluster / f"etcd-broken-{int(time.time())}"
    store.rename(aside)
    say(
        f"\n  etcd cannot read its store ({str(problem).splitlines()[-1][:200]}).\n"
        f"  It was moved to {aside}; the cluster starts EMPTY."
    )


def _stop_everything(places: Places) -> None:
    """Stop in the order that leaves nothing behind: kubelet first (it would start pods again),
    then the pods, then what carries them, the store last."""
    waits = {c.name: c.stop_within for c in _list_components(places)}
    names = [f.stem for f in places.run.glob("*.pid")] if places.run.is_dir() else []
    if "kubelet" in names:
        with step("Stopping kubelet"):
            processes.stop(_pid_file(places, "kubelet"), waits.get("kubelet", 10))
    if probes.answers(f"unix://{places.containerd_socket}"):
        with step("Ending all containers"):
            leftovers.kill_pod_processes()
            try:
                leftovers.delete_containers(places)
            except CannotContinueError as problem:
                say(f"({problem}; kubelet clears them away at the next start)")
    order = ["kube-proxy", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"]
    rest = [n for n in [*order, "containerd"] if n in names]
    if rest:
        with step("Stopping " + ", ".join(rest)):
            for name in rest:
                processes.stop(_pid_file(places, name), waits.get(name, 10))
    leftovers.kill_pod_processes()
    processes.kill_all(processes.list_owned(_owner(places)))  # shims, and what lost its pid file
    leftovers.unmount_all(places.cluster)
    leftovers.unmount_all(places.containerd_root)
    leftovers.delete_cgroups()
    for stale in (places.run, places.cluster / "cni-addresses"):
        shutil.rmtree(stale, ignore_errors=True)  # sockets, bundles, addresses of dead pods


def _wait_for_node(places: Places) -> None:
    identity = processes.read_identity(_pid_file(places, "kubelet"))
    age = processes.age(identity) if identity is not None else 0.0
    if not wait_until(lambda: probes.node_is_ready(places.pki, age), within=90):
        raise CannotContinueError(
            f"The node did not become Ready. See {_log(places, 'kubelet')} and: "
            f"kubectl --kubeconfig {places.kubeconfig} describe node {at.NODE_NAME}"
        )


def _ensure_dns(places: Places, image: str) -> None:
    manifest = REPOSITORY / "e2e" / "cluster" / "manifests" / "coredns.yaml"
    kubectl = [find_kubectl(), "--kubeconfig", str(places.kubeconfig)]
    text = manifest.read_text().replace("DNS_ADDRESS", at.DNS_ADDRESS).replace("IMAGE", image)
    # kube-system appears a moment after the API server is ready.
    if not wait_until(lambda: _apply(kubectl, text) is None, within=30, every=1):
        raise CannotContinueError(f"CoreDNS could not be applied: {_apply(kubectl, text)}")
    if not wait_until(probes.dns_answers, within=90):
        raise CannotContinueError(
            "The cluster's DNS does not answer. See: "
            f"{' '.join(kubectl)} -n kube-system describe pods"
        )


def _apply(kubectl: list[str], manifest: str) -> CannotContinueError | None:
    """Apply objects; returns what went wrong, if anything."""
    try:
        run(
            [*kubectl, "apply", "--server-side", "--force-conflicts",
             "--field-manager=llmr-cluster", "-f", "-"],
            stdin=manifest,
        )  # fmt: skip
    except CannotContinueError as problem:
        return problem
    return None


def find_kubectl() -> str:
    """kubectl of the project's environment, pinned with it, else the machine's."""
    pinned = REPOSITORY / ".venv" / "bin" / "kubectl"
    found = str(pinned) if pinned.is_file() else shutil.which("kubectl")
    if found is None:
        raise CannotContinueError("kubectl is missing: `make venv` installs it.")
    return found
