"""`python -m e2e.cluster COMMAND`: the cluster in one command. See docs/local-cluster.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

from e2e.cluster import kind, node
from e2e.cluster.binaries import ensure_binaries
from e2e.cluster.image_builders import docker_answers
from e2e.cluster.places import Places, find_places
from e2e.cluster.steps import CannotContinueError, say


def uses_kind() -> bool:
    """kind where a Docker engine answers; LLMR_CLUSTER=kind or =node decides otherwise."""
    choice = os.environ.get("LLMR_CLUSTER", "")
    if choice not in ("", "kind", "node"):
        raise CannotContinueError(f"LLMR_CLUSTER is {choice!r}; it may be kind or node.")
    return choice == "kind" or (choice == "" and docker_answers())


def up(places: Places) -> None:
    start = time.monotonic()
    if uses_kind():
        say("Local cluster: kind, on the Docker engine of this machine")
        with node.locked(places):
            kind.up(places)
    else:
        say("Local cluster: a single node from real Kubernetes parts (no Docker engine answers)")
        with node.locked(places):
            node.up(places)
    say(f"Cluster ready in {time.monotonic() - start:.1f} s")
    say(f"  export KUBECONFIG={places.kubeconfig}")


def down(places: Places) -> None:
    with node.locked(places):
        kind.down() if uses_kind() else node.down(places)
    say("Cluster stopped; `make cluster` starts it again with its objects")


def reset(places: Places) -> None:
    with node.locked(places):
        kind.reset() if uses_kind() else node.reset(places)
    say("Cluster deleted; programs and images are kept")


def status(places: Places) -> None:
    rows = node.report(places)
    for name, state, log in rows:
        print(f"{name:<25}{state:<15}{log}")
    if not rows or any(state != "running" for _, state, _ in rows):
        raise CannotContinueError("The cluster is not wholly up: `make cluster` mends it.")


def kubeconfig(places: Places) -> None:
    print(places.kubeconfig)


COMMANDS: dict[str, Callable[[Places], None]] = {
    "up": up,
    "down": down,
    "reset": reset,
    "status": status,
    "kubeconfig": kubeconfig,
    "binaries": ensure_binaries,
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="e2e.cluster", description=__doc__)
    parser.add_argument("command", choices=[*COMMANDS, "start", "stop"])
    parser.add_argument("program", nargs="?", help="for start and stop: one program of the node")
    options = parser.parse_args(arguments)
    places = find_places()
    try:
        if options.command in COMMANDS:
            COMMANDS[options.command](places)
        elif options.program is None:
            parser.error(f"{options.command} needs the name of a program, such as kube-apiserver")
        else:
            act = node.start_component if options.command == "start" else node.stop_component
            with node.locked(places):
                act(places, options.program)
    except CannotContinueError as problem:
        say(f"\n{problem}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
