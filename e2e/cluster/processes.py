"""Long-running programs of the node: started in its namespace, remembered in pid files.

A pid file holds the process's start time and the machine's boot, so a number that the kernel has
given to somebody else is never mistaken for ours, and never signalled. This module decides
whether a remembered process is alive; it never decides which ones should be.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

OWNER_VARIABLE = "LLMR_NODE_OWNER"  # set for every process of the node; shims inherit it


@dataclass(frozen=True)
class Identity:
    """One process for ever: a pid is used again, a pid with its start time is not."""

    pid: int
    started: int  # clock ticks after boot, field 22 of /proc/<pid>/stat
    boot: str
    command: str  # hash of the arguments and configuration it was started with


def boot_id() -> str:
    """Changes with every boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def parse_stat(text: str) -> tuple[str, int]:
    """State letter and start time from /proc/<pid>/stat; the name in it may hold any character."""
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def start_time(pid: int) -> int | None:
    """Clock ticks after boot, or None when no such process runs (a zombie runs no more)."""
    try:
        state, started = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else started


def is_alive(identity: Identity) -> bool:
    """Whether this very process still runs."""
    return identity.boot == boot_id() and start_time(identity.pid) == identity.started


def read_identity(file: Path) -> Identity | None:
    """What a pid file says; None for a missing file or one that was cut short while written."""
    try:
        return Identity(**json.loads(file.read_text()))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None


def hash_command(arguments: Sequence[str], configuration: Sequence[str] = ()) -> str:
    """Names the way a program was started: when it differs the program must be started again."""
    return hashlib.sha256(json.dumps([*arguments, *configuration]).encode()).hexdigest()[:12]


def start(
    arguments: Sequence[str],
    *,
    pid_file: Path,
    log: Path,
    owner: str,
    namespace: Path,
    configuration: Sequence[str] = (),
) -> Identity:
    """Start a program in the network namespace, in a session of its own, and write its pid file.

    The log of the run before is kept beside the new one (`.1`). Returns at once: the program may
    not be ready, or may end a moment later.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        pid = os.posix_spawnp(
            "nsenter",
            # nsenter and not `ip netns exec`: that mounts another /sys, which hides the cgroups.
            ["nsenter", f"--net={namespace}", "--wd=/", "--", *arguments],
            {**os.environ, OWNER_VARIABLE: owner},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(output)
    started = start_time(pid)
    identity = Identity(pid, started or 0, boot_id(), hash_command(arguments, configuration))
    _write(pid_file, json.dumps(asdict(identity)))
    return identity


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(file.name + ".new")
    scratch.write_text(text)
    scratch.replace(file)


def send(identity: Identity, number: signal.Signals) -> bool:
    """Signal this very process; False when it is gone. A descriptor of the process is opened
    first and the start time compared after, so no other process can slip in between."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(identity):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait_for_end(identity: Identity, within: float) -> bool:
    """True as soon as the process is gone; False after `within` seconds."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return True
    try:
        if not is_alive(identity):
            return True
        readable, _, _ = select.select([descriptor], [], [], within)
        return bool(readable)
    finally:
        os.close(descriptor)


def stop(pid_file: Path, patience: float) -> bool:
    """Ask the process in the pid file to end, kill it after `patience` seconds, remove the file.

    False when it was not running.
    """
    identity = read_identity(pid_file)
    running = identity is not None and send(identity, signal.SIGTERM)
    if running and identity is not None:
        send(identity, signal.SIGCONT)  # a frozen process (tests freeze some) must see the signal
        if not wait_for_end(identity, patience):
            send(identity, signal.SIGKILL)
            wait_for_end(identity, 10)
    pid_file.unlink(missing_ok=True)
    return running


def list_owned(owner: str) -> list[Identity]:
    """Every process that was started for this owner, found by its environment: also those whose
    pid file is lost, and the shims that containerd leaves behind when it dies."""
    mark = f"{OWNER_VARIABLE}={owner}".encode()
    return [i for i in _list_marked() if mark in _environment(i.pid)]


def list_foreign(owner: str) -> list[str]:
    """Owners of other nodes on this machine."""
    prefix = f"{OWNER_VARIABLE}=".encode()
    owners = {
        word.removeprefix(prefix).decode()
        for identity in _list_marked()
        for word in _environment(identity.pid)
        if word.startswith(prefix)
    }
    return sorted(owners - {owner})


def _list_marked() -> list[Identity]:
    prefix = f"{OWNER_VARIABLE}=".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        pid = int(folder.name)
        started = start_time(pid)
        if started is not None and any(w.startswith(prefix) for w in _environment(pid)):
            found.append(Identity(pid, started, boot_id(), ""))
    return found


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def kill_all(identities: Sequence[Identity], within: float = 10) -> None:
    """SIGKILL to each, then wait until they are gone."""
    for identity in identities:
        send(identity, signal.SIGKILL)
    deadline = time.monotonic() + within
    for identity in identities:
        wait_for_end(identity, max(0.0, deadline - time.monotonic()))


def program_name(identity: Identity) -> str:
    """The name of the program's file, or nothing when the process is gone."""
    try:
        words = Path(f"/proc/{identity.pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return Path(words[0].decode(errors="replace")).name


def age(identity: Identity) -> float:
    """Seconds since the process was started."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - identity.started / os.sysconf("SC_CLK_TCK")
