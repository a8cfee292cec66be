"""The parts of the operator's process and how they hang together: the composition root.

It decides nothing and starts nothing: controller/operator does. Where gates plug in is here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from llmrollouts.controller.act import Actor
from llmrollouts.controller.children import ChildrenKeeper
from llmrollouts.controller.complaints import Complaints
from llmrollouts.controller.configuration import Configuration
from llmrollouts.controller.credentials import XdsKeys
from llmrollouts.controller.ending import Ending
from llmrollouts.controller.events import EventRecorder
from llmrollouts.controller.fast_lane import FastLane, Lowerings
from llmrollouts.controller.fence import FencedWriter
from llmrollouts.controller.follow import Follower
from llmrollouts.controller.gate_engine import GateEngine, make_clock
from llmrollouts.controller.gates import AllGates
from llmrollouts.controller.gateways import GatewayRoster
from llmrollouts.controller.keys import Key
from llmrollouts.controller.leadership import ElectedLeadership
from llmrollouts.controller.measure import Means
from llmrollouts.controller.observe import Observer
from llmrollouts.controller.prometheus_gates import PrometheusGates
from llmrollouts.controller.queue import Outcome, WorkQueue
from llmrollouts.controller.reconcile import Reconciler
from llmrollouts.controller.resync import Resync
from llmrollouts.controller.route_store import KubeRoutes
from llmrollouts.controller.takeover import TakeOver
from llmrollouts.controller.telemetry import Telemetry
from llmrollouts.controller.versions import Versions
from llmrollouts.controller.watch import WATCHED
from llmrollouts.controller.watch_age import WatchAges
from llmrollouts.kube.client import KubeClient, OnRequest
from llmrollouts.kube.connection import connect
from llmrollouts.kube.elector import Elector, make_identity
from llmrollouts.metrics.fetch import PageFetcher
from llmrollouts.metrics.prometheus import PrometheusClient
from llmrollouts.metrics.reading import WorkerReader
from llmrollouts.rollout.plan import plan
from llmrollouts.traffic.choice import ChosenTraffic
from llmrollouts.traffic.gateway import EnvoyTraffic
from llmrollouts.traffic.httproute import HTTPRouteTraffic


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the parts tell the process.

    end: how, and why. lead: this process leads as of this epoch. round: one round for a
    key, by the role of the moment. nudge: there is news of a key. spread: rounds without haste.
    """

    end: Callable[[Ending, str], None]
    lead: Callable[[int], None]
    round: Callable[[Key], Awaitable[Outcome]]
    nudge: Callable[[Key], None]
    gateways_changed: Callable[[], None]
    on_request: OnRequest


@dataclass(frozen=True, slots=True)
class Parts:
    client: KubeClient
    elector: Elector
    leadership: ElectedLeadership
    traffic: EnvoyTraffic
    routes: HTTPRouteTraffic
    keys: XdsKeys
    events: EventRecorder
    reconciler: Reconciler
    fast_lane: FastLane
    follower: Follower
    queue: WorkQueue[Key]
    take_over: TakeOver
    roster: GatewayRoster
    gate_engine: GateEngine
    resync: Resync
    versions: Versions
    ages: WatchAges


async def assemble(given: Configuration, telemetry: Telemetry, hooks: Hooks) -> Parts:
    """Raises NoConnection when nothing says where the API server is."""
    client = KubeClient(await connect(given.kubeconfig), hooks.on_request)
    # A client of its own: no queue of other requests may delay a renewal.
    lease_client = KubeClient(await connect(given.kubeconfig), hooks.on_request, connections=2)
    # Nor may rounds delay a look at a command.
    fast_client = KubeClient(await connect(given.kubeconfig), hooks.on_request, connections=8)
    elector = Elector(
        lease_client,
        given.namespace,
        given.lease,
        make_identity(given.pod, given.pod_uid),
        on_started=hooks.lead,
        on_stopped=lambda reason: hooks.end(Ending.DEPOSED, f"leadership lost: {reason}"),
    )
    leadership = ElectedLeadership(elector)
    gateway = EnvoyTraffic(leadership, given.gateways)
    versions, ages = Versions(), WatchAges(WATCHED)
    writer = FencedWriter(client, leadership)
    routes = HTTPRouteTraffic(
        KubeRoutes(client, writer),
        leadership,
        on_news=lambda namespace, name: hooks.nudge(Key(namespace, name)),
    )
    traffic = ChosenTraffic(gateway, routes)
    events = EventRecorder(writer, given.pod, on_lost=telemetry.count_lost_event)
    clock = make_clock()
    gate_engine = GateEngine(
        Means(WorkerReader(PageFetcher(clock=clock)), traffic, clock),
        client,
        writer,
        leads=elector.is_leader,
        nudge=hooks.nudge,
        on_placebo=telemetry.note_placebo,
    )
    custom_gates = PrometheusGates(
        client,
        PrometheusClient(),
        given.allowed_prometheus,
        leads=elector.is_leader,
        told=telemetry.count_asked,
    )
    gates = AllGates(gate_engine, custom_gates)
    observer = Observer(client, traffic, gates, versions, ages.note_read)
    children = ChildrenKeeper(client, writer, versions)
    lowerings = Lowerings()
    actor = Actor(writer, children, traffic, leadership, events, versions, telemetry, lowerings)
    reconciler = Reconciler(
        observer,
        plan,
        actor,
        Complaints(client, writer, events, versions),
        traffic,
        given.workers,
        leadership,
        telemetry,
        versions,
        lowerings,
        stop=lambda reason: hooks.end(Ending.DEPOSED, reason),
    )
    return Parts(
        client=client,
        elector=elector,
        leadership=leadership,
        traffic=gateway,
        routes=routes,
        keys=XdsKeys(client, writer, given.namespace),
        events=events,
        reconciler=reconciler,
        fast_lane=FastLane(fast_client, traffic, leadership, lowerings, telemetry.count_bug),
        follower=Follower(observer, reconciler, traffic, given.workers),
        queue=WorkQueue(hooks.round, given.rounds),
        take_over=TakeOver(client, observer, plan, traffic, given.workers, given.namespaces),
        roster=GatewayRoster(
            client,
            given.namespace,
            given.gateway_service,
            gateway.set_gateways,
            on_change=hooks.gateways_changed,
        ),
        gate_engine=gate_engine,
        resync=Resync(client, given.namespaces, versions, reconciler.known, hooks.nudge),
        versions=versions,
        ages=ages,
    )
