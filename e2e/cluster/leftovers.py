"""Cleaning up after pods: their processes, mounts and cgroups.

Everything is found by names that only this cluster uses (its own cgroup, its own folders), so
that it works after a crash too, and touches nothing of anybody else.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from e2e.cluster import places as at
from e2e.cluster.places import Places
from e2e.cluster.steps import CannotContinueError, run, succeeds, wait_until

_CGROUPS = Path("/sys/fs/cgroup")


def make_ctr_command(places: Places) -> list[str]:
    """containerd's own client, in the namespace that kubelet uses."""
    return ["ctr", "--address", str(places.containerd_socket), "--namespace", "k8s.io"]


def ctr(places: Places, *arguments: str, timeout: float = 120) -> str:
    """Run containerd's client; raises CannotContinueError when it refuses."""
    return run([*make_ctr_command(places), *arguments], timeout=timeout)


def delete_containers(places: Places) -> None:
    """Remove every container from a containerd that answers; their processes have ended before.

    A pod's containers share one shim with its sandbox and go with it, so some are gone by the
    time they are named: what counts is that none is left.
    """

    def none_left() -> bool:
        for task in ctr(places, "tasks", "list", "--quiet").split():
            succeeds([*make_ctr_command(places), "tasks", "delete", "--force", task])
        containers = ctr(places, "containers", "list", "--quiet").split()
        if containers:
            succeeds([*make_ctr_command(places), "containers", "delete", *containers])
        return not ctr(places, "containers", "list", "--quiet").split()

    if not wait_until(none_left, within=20):
        raise CannotContinueError("some containers could not be removed")


def list_cgroups() -> list[Path]:
    """Our cgroup in each hierarchy (version 1), or the one of version 2."""
    if (_CGROUPS / "cgroup.controllers").is_file():
        return [_CGROUPS / at.CGROUP]
    return [h / at.CGROUP for h in sorted(_CGROUPS.iterdir()) if (h / "cgroup.procs").is_file()]


def ensure_cgroups() -> None:
    """kubelet wants its root cgroup to be there already."""
    for cgroup in list_cgroups():
        cgroup.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            value, inherited = cgroup / name, cgroup.parent / name
            # Version 1 starts a cpuset empty, and an empty one takes no process.
            if value.is_file() and inherited.is_file() and not value.read_text().strip():
                value.write_text(inherited.read_text())
        subtree = cgroup / "cgroup.subtree_control"
        if subtree.is_file():
            controllers = (cgroup.parent / "cgroup.controllers").read_text().split()
            for target in (cgroup.parent / "cgroup.subtree_control", subtree):
                target.write_text(" ".join(f"+{c}" for c in controllers))


def kill_pod_processes(within: float = 10) -> int:
    """SIGKILL to every process in our cgroups until none is left; returns how many there were."""
    seen: set[int] = set()
    deadline = time.monotonic() + within
    while (pids := _pod_pids()) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        seen |= pids
        time.sleep(0.1)
    return len(seen)


def _pod_pids() -> set[int]:
    found: set[int] = set()
    for cgroup in list_cgroups():
        for file in cgroup.rglob("cgroup.procs"):
            try:
                found.update(int(p) for p in file.read_text().split())
            except (FileNotFoundError, OSError):
                continue  # the cgroup went away while we read it
    return found


def delete_cgroups() -> None:
    """Remove our cgroups, the deepest first. One that is still busy stays: `up` uses it again."""
    for cgroup in list_cgroups():
        if cgroup.is_dir():
            folders = sorted((d for d in cgroup.rglob("*") if d.is_dir()), reverse=True)
            for folder in [*folders, cgroup]:
                try:
                    folder.rmdir()
                except OSError:
                    break


def parse_mounts(mountinfo: str, below: Path) -> list[str]:
    """Mount points below a folder, the deepest first, from the text of /proc/self/mountinfo."""
    prefix = f"{below}/"
    points = [_unescape(line.split(" ")[4]) for line in mountinfo.splitlines()]
    return sorted((p for p in points if p.startswith(prefix)), reverse=True)


def _unescape(word: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, char)
    return word


def unmount_all(below: Path) -> None:
    """Unmount everything below a folder; what is busy is detached and goes when it is free."""
    for point in parse_mounts(Path("/proc/self/mountinfo").read_text(), below):
        if not succeeds(["umount", point]):
            run(["umount", "--lazy", point])


def tells_of_a_broken_store(log: str) -> bool:
    """Whether etcd ended because it could not read its files, and not for a taken port, say."""
    words = ("wal: ", "walpb: ", "snap: ", "crc mismatch", "panic: ", "invalid database")
    return any(word in log for word in words)
