"""A hundred rollbacks at once, and one after the other: command to the last canary request.

    python -m bench.rollbacks_at_once [--deployments 100] [--rate 5] [--runs 3]

One world (bench/local_world.py): every deployment is in a 50 % canary step with steady users at
one of two real Envoys. All get the rollback annotation at once; in the variant they get it within
two seconds after another change of theirs (R31). Then one after the other, while the rest stay in
their canary steps. The clock starts before the annotation is sent; the last canary request is the
last one *sent* that the canary answered. Results: bench/results/rollbacks_at_once.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bench.kube_api import MERGE_PATCH, Json
from bench.local_world import (
    World,
    create_deployments,
    load_average,
    name_of,
    namespace_of,
    path_of,
    read_all,
    start_world,
    wait_phase,
)
from bench.many_users import User
from bench.operator_process import OperatorProcess
from bench.results_file import keep, summarise
from llmrollouts.api import labels
from tests.traffic.proxy import Proxy

PROMISE = {"at_once_last": 2.0, "single_p95": 1.0, "single_median": 0.3}
_SHARE = "50%"
_DURATIONS = ("10h", "11h")
# Of the deployment that is measured alone: its requests are the resolution of the result.
_SINGLE_RATE = 100.0
# So long without one at that rate, there is no canary request any more.
_QUIET = 1.2


def make_strategy(duration: str) -> Json:
    return {"steps": [{"canary": {"share": _SHARE, "duration": duration, "minRequests": 1}}]}


@dataclass
class Fleet:
    """The deployments of one world with their users. canaries: revision by deployment."""

    world: World
    operator: OperatorProcess
    users: list[User]
    canaries: list[str] = field(default_factory=list)
    _nonces: Iterable[int] = field(default_factory=itertools.count)

    @property
    def count(self) -> int:
        return len(self.users)

    async def patch(self, number: int, body: Json) -> None:
        await self.world.api.request("PATCH", path_of(number), body, MERGE_PATCH)

    async def command(self, number: int, verb: str) -> tuple[float, float]:
        """Annotate; the moments just before it was sent (loop time, wall time)."""
        value = f"{verb}/{next(iter(self._nonces))}"
        moments = asyncio.get_running_loop().time(), time.time()
        await self.patch(number, {"metadata": {"annotations": {labels.COMMAND: value}}})
        return moments

    async def change(self, number: int, turn: int) -> None:
        """Another change of a person's: half of them the size, half of them the steps."""
        if number % 2:
            await self.patch(number, {"spec": {"replicas": 1 + (turn + 1) % 2}})
        else:
            await self.patch(number, {"spec": {"strategy": make_strategy(_DURATIONS[turn % 2])}})

    async def statuses(self) -> list[Json]:
        """By number."""
        return [item.get("status") or {} for item in await self.resources()]

    async def resources(self) -> list[Json]:
        found = {(i["metadata"]["namespace"], i["metadata"]["name"]): i for i in await self._all()}
        return [found[namespace_of(n), name_of(n)] for n in range(self.count)]

    async def _all(self) -> list[Json]:
        return await read_all(self.world.api)

    async def wait(self, what: str, done: Callable[[Json], bool], within: float) -> list[Json]:
        """Until ``done`` of every resource; raises TimeoutError that names the others."""
        missing: list[Json] = []
        try:
            async with asyncio.timeout(within):
                while True:
                    found = await self.resources()
                    missing = [i for i in found if not done(i)]
                    if not missing:
                        return found
                    await asyncio.sleep(0.5)
        except TimeoutError as error:
            first = json.dumps({**missing[0], "spec": None}, indent=1)
            log = self.operator.tail()
            raise TimeoutError(f"{len(missing)} not {what}; one:\n{first}\n{log}") from error

    async def enter_canary(self) -> None:
        """Until every deployment's users are answered by its canary too."""
        found = await self.wait("in the canary step", in_canary, 120)
        self.canaries = [item["status"]["canaryRevision"] for item in found]
        for user in self.users:
            user.seen.clear()
        async with asyncio.timeout(60):
            while any(u.last_start(c) is None for u, c in self.pairs()):  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    async def retry(self) -> None:
        await self.wait("held", is_back, 60)
        await asyncio.gather(
            *(self.command(n, f"retry:{canary}") for n, canary in enumerate(self.canaries))
        )
        await self.enter_canary()

    def pairs(self) -> Iterable[tuple[User, str]]:
        return zip(self.users, self.canaries, strict=True)


def in_canary(item: Json) -> bool:
    status = item.get("status") or {}
    return status.get("share") == _SHARE and bool(status.get("canaryRevision"))


def is_back(item: Json) -> bool:
    """Rolled back, told to every gateway, and the command is done with."""
    status, annotations = item["status"], item["metadata"].get("annotations") or {}
    return (
        labels.COMMAND not in annotations
        and not status.get("canaryRevision")
        and "programmedAt" in (status.get("lastRollback") or {})
    )


async def measure_at_once(fleet: Fleet, turn: int, after_a_change: bool) -> dict[str, Any]:
    """All at once. Seconds by deployment, from its own command."""
    load = load_average()
    for user in fleet.users:
        user.seen.clear()
    cpu, began = fleet.operator.cpu_seconds(), asyncio.get_running_loop().time()
    if after_a_change:
        await asyncio.gather(*(_change_then_pause(fleet, n, turn) for n in range(fleet.count)))
    first = asyncio.get_running_loop().time()
    moments = await asyncio.gather(*(fleet.command(n, "rollback") for n in range(fleet.count)))
    sent = asyncio.get_running_loop().time()
    found = await fleet.wait("rolled back", is_back, 60)
    await asyncio.sleep(2.0)
    lasts = [user.last_start(canary) for user, canary in fleet.pairs()]
    seconds = [max(0.0, (last or at) - at) for last, (at, _) in zip(lasts, moments, strict=True)]
    programmed = [
        datetime.fromisoformat(item["status"]["lastRollback"]["programmedAt"]).timestamp() - at
        for item, (_, at) in zip(found, moments, strict=True)
    ]
    took = asyncio.get_running_loop().time() - began
    return {
        "after_a_change": after_a_change,
        "last_canary_request": summarise(seconds),
        "last_of_all_after_the_first_command": round(max(filter(None, lasts)) - first, 4),
        "commands_sent_within": round(sent - first, 4),
        "programmed_in_all_proxies": summarise(programmed),
        "lost": sum(not is_back(item) for item in found),
        "load_average": load,
        "operator_cores": round((fleet.operator.cpu_seconds() - cpu) / took, 3),
        **_tell_users(fleet),
        "raw_last_canary_request": [round(value, 4) for value in seconds],
    }


async def _change_then_pause(fleet: Fleet, number: int, turn: int) -> None:
    await asyncio.sleep(random.uniform(0.0, 2.0))
    await fleet.change(number, turn)


async def measure_single(fleet: Fleet, number: int) -> float:
    """One rollback while the others stay as they are."""
    user, canary = fleet.users[number], fleet.canaries[number]
    quiet, user.rate = user.rate, _SINGLE_RATE
    await asyncio.sleep(0.6)
    loop = asyncio.get_running_loop()
    at, _ = await fleet.command(number, "rollback")
    async with asyncio.timeout(30):
        while loop.time() - max(at, user.last_start(canary) or at) < _QUIET:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    user.rate = quiet
    return max(0.0, (user.last_start(canary) or at) - at)


def _tell_users(fleet: Fleet) -> dict[str, Any]:
    statuses = Counter(seen.status for user in fleet.users for seen in user.seen)
    return {
        "requests": statuses.total(),
        "failed_requests": statuses.total() - statuses[200],
        "requests_left_out": sum(user.left_out for user in fleet.users),
    }


@contextlib.asynccontextmanager
async def start_fleet(count: int, rate: float) -> AsyncIterator[Fleet]:
    """``count`` deployments, each in its canary step, under traffic."""
    async with start_world(serve=True) as world, world.operator("operator-0") as operator:
        await operator.wait_ready()
        async with world.proxies(operator) as proxies, asyncio.TaskGroup() as group:
            await create_deployments(world.api, range(count), make_strategy(_DURATIONS[0]))
            await wait_phase(world.api, "Serving", count, 120 + count)
            await asyncio.gather(*(proxy.wait_ready(60) for proxy in proxies))
            fleet = Fleet(world, operator, make_users(proxies, count, rate))
            tasks = [group.create_task(user.run()) for user in fleet.users]
            newer = {"spec": {"revision": {"model": {"uri": "file:///models/v2"}}}}
            await asyncio.gather(*(fleet.patch(n, newer) for n in range(count)))
            await fleet.enter_canary()
            yield fleet
            for task in tasks:
                task.cancel()


def make_users(proxies: Sequence[Proxy], count: int, rate: float) -> list[User]:
    return [
        User(
            "127.0.0.1",
            proxies[number % len(proxies)].bootstrap.listen_port,
            f"/{namespace_of(number)}/{name_of(number)}/v1/models",
            rate,
        )
        for number in range(count)
    ]


async def measure(count: int, rate: float, runs: int, alone: int) -> dict[str, Any]:
    at_once: list[dict[str, Any]] = []
    async with start_fleet(count, rate) as fleet:
        for run in range(2 * runs):
            if run:
                await fleet.retry()
            await asyncio.sleep(3.0)
            at_once.append(await measure_at_once(fleet, run // 2, after_a_change=run % 2 == 1))
            brief = {k: v for k, v in at_once[-1].items() if not k.startswith("raw")}
            print(f"at once, run {run + 1} of {2 * runs}:", json.dumps(brief), flush=True)
        await fleet.retry()
        load, singles = load_average(), []
        for number in range(min(alone, count)):
            singles.append(await measure_single(fleet, number))
        print("one after the other:", summarise(singles), flush=True)
        return {
            "deployments": count,
            "requests_per_second_each": rate,
            "promise_seconds": PROMISE,
            "operator_restarts": fleet.operator.restarts,
            "at_once": at_once,
            "one_after_the_other": {
                "last_canary_request": summarise(singles),
                "load_average": [load, load_average()],
                **_tell_users(fleet),
                "raw": [round(value, 4) for value in singles],
            },
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deployments", type=int, default=100)
    parser.add_argument("--rate", type=float, default=5.0, help="requests/s for each deployment")
    parser.add_argument("--runs", type=int, default=3, help="of each variant")
    parser.add_argument("--singles", type=int, default=100, help="rollbacks one after the other")
    parser.add_argument("--name", default="rollbacks_at_once", help="of the file in bench/results")
    chosen = parser.parse_args()
    results = asyncio.run(measure(chosen.deployments, chosen.rate, chosen.runs, chosen.singles))
    print(keep(chosen.name, results))


if __name__ == "__main__":
    main()
