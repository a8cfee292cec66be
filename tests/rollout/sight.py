"""What the operator sees of the world: its objects, its pods, what the proxies report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmrollouts.rollout.intent import RequestCounts, TrafficObservation
from llmrollouts.rollout.observation import Deployment, Observation, WorkerPod

if TYPE_CHECKING:
    from tests.rollout.world import Pod, World


def observe(world: World) -> Observation:
    return Observation(
        deployment=Deployment(
            namespace="prod",
            name="chat",
            uid="uid-1",
            generation=world.generation,
            spec=world.spec,
            status=world.status,
            deleting=world.deleting,
            status_problem=world.status_problem,
            command=world.command,
            command_sequence=world.command_sequence,
            command_applied=world.command_applied,
            command_at=world.command_at,
        ),
        source=world.source,
        texts={} if world.problem else dict(world.texts),
        problem=world.problem,
        revisions=tuple(world.records.values()),
        workers=tuple(world.workers.values()),
        pods=tuple(_see(world, pod) for pod in world.pods),
        config_maps=frozenset(world.config_maps),
        traffic=_see_traffic(world),
        gates=(*world.latency.speak(world), *world.gates),
    )


def _see(world: World, pod: Pod) -> WorkerPod:
    return WorkerPod(
        name=pod.name,
        uid=pod.name,
        revision=pod.revision,
        address=f"10.0.0.{int(pod.name.rsplit('-', 1)[1]) % 250}",
        ready=_is_ready(world, pod),
        terminating=pod.leaves_at is not None,
        excused=pod.excused,
        lost_ready=pod.unready and pod.leaves_at is None,
        deaths=tuple(pod.deaths),
    )


def _is_ready(world: World, pod: Pod) -> bool:
    return (
        not pod.broken
        and not pod.unready
        and pod.leaves_at is None
        and pod.ready_at is not None
        and pod.ready_at <= world.now
    )


def _see_traffic(world: World) -> TrafficObservation:
    age = (world.now - world.born).total_seconds()
    report_age: float | None = None if age < 1.5 else 0.5
    if world.cut_off or not world.reports:
        since = world.heard_at if world.cut_off else max(world.silent_since, world.born)
        silent = (world.now - since).total_seconds()
        report_age = silent if age >= 1.5 else None
    if not world.gateways:
        report_age = None
    settled = world.programmed is not None and world.actual == world.programmed
    return TrafficObservation(
        programmed=world.programmed,
        settled=settled,
        gateways=world.gateways,
        settled_gateways=world.gateways if settled else 0,
        report_age=report_age,
        quiet_seconds={
            name: (world.now - when).total_seconds() for name, when in world.last_issued.items()
        },
        counts={
            name: RequestCounts(
                issued=int(live),
                mirrored=int(mirrored),
                errors=int(live * world.failing.get(name, 0.0)),
                saved=int(live * world.failing.get(name, 0.0) / 2),
            )
            for name, (live, mirrored) in world.counts.items()
        },
        recent_live={},
        recent_mirrored={},
        recent_rate=world.rate,
        source=f"operator-{world.life}",
    )
