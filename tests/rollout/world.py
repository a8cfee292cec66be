"""A small world for the state machine: a cluster, proxies and a clock that only move when told.

Deterministic, without threads and sleeps. The shell's order is the real one: lower, commit,
program, effects; a crash can be put after each of them. The world itself checks, in every round,
what must hold whatever happens (``check``), so each test of a rollout is a test of these too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from llmrollouts.api.share import NONE, Share
from llmrollouts.api.spec import LLMDeploymentSpec
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.resources.canonical import canonical_json
from llmrollouts.rollout.effects import (
    ApplyWorkers,
    DeleteRevision,
    DeleteWorkers,
    Effect,
    Notice,
    Plan,
    RejectRevision,
    RemoveCommand,
    StoreRevision,
)
from llmrollouts.rollout.intent import DeploymentTraffic, lowered
from llmrollouts.rollout.observation import (
    ContainerDeath,
    Gate,
    RevisionRecord,
    SourceProblem,
    WorkerSet,
)
from llmrollouts.rollout.plan import plan
from tests.rollout.latency import LatencyGate
from tests.rollout.rules import check_deletion, check_plan
from tests.rollout.sight import observe
from tests.rollout.specs import SETTINGS, SHORT_STEPS, START, make_spec

TTL = 12.0
LEASE = 8.0


class Crash(Exception):
    """The operator died between two of its writes."""


@dataclass
class Pod:
    name: str
    revision: str
    ready_at: datetime | None
    leaves_at: datetime | None = None
    excused: bool = False
    deaths: list[ContainerDeath] = field(default_factory=list)
    broken: bool = False
    unready: bool = False  # it runs and answered, and its probes fail now


class World:
    """One LLMDeployment with everything around it."""

    def __init__(
        self,
        spec: LLMDeploymentSpec | None = None,
        *,
        rate: float = 100.0,
        start_seconds: float = 30.0,
        gateways: int = 2,
    ) -> None:
        self.now = START
        self.spec = spec if spec is not None else make_spec(steps=SHORT_STEPS)
        self.generation = 1
        self.status = LLMDeploymentStatus()
        self.status_problem: str | None = None
        self.deleting = False
        self.command: str | None = None
        self.command_sequence = 0
        self.command_applied = False
        self.command_at: datetime | None = None
        self.texts: dict[str, str] = {}
        self.problem: SourceProblem | None = None
        self.records: dict[str, RevisionRecord] = {}
        self.workers: dict[str, WorkerSet] = {}
        self.config_maps: set[str] = set()
        self.pods: list[Pod] = []
        self.gates: tuple[Gate, ...] = ()
        self.latency = LatencyGate()
        # The part of a revision's requests that fail; half of them are saved.
        self.failing: dict[str, float] = {}
        self.rate = rate
        self.start_seconds = start_seconds
        self.gateways = gateways
        self.ack_seconds = 0.1
        self.epoch = 1
        # The operator's process.
        self.life = 0
        self.alive = True
        self.born = self.now
        self.programmed: DeploymentTraffic | None = None
        self.programmed_at = self.now
        self.renewed_at: datetime | None = None
        # The proxies.
        self.actual: DeploymentTraffic | None = None
        self.heard_at = self.now
        self.cut_off = False
        self.reports = True
        self.silent_since = self.now
        self.counts: dict[str, list[float]] = {}
        self.last_issued: dict[str, datetime] = {}
        self.served: dict[str, float] = {}
        self.failed = 0.0
        # What people see.
        self.notices: list[Notice] = []
        self.lines: list[str] = []
        self.writes = 0
        self.log: list[str] = []
        self.told_traffic = ""
        self.named = 0
        self.starts_broken: set[str] = set()
        self.names: dict[str, str] = {}

    @property
    def source(self) -> str:
        return canonical_json(self.spec.revision.model_dump(exclude_none=True, by_alias=True))

    # One round of the shell.

    def round(self, crash_after: int | None = None) -> Plan:
        """Observe, plan, act; with ``crash_after`` the operator dies after so many writes."""
        given = observe(self)
        made = plan(given, SETTINGS, self.now, self.epoch)
        check_plan(made)
        writes = 0

        def wrote() -> None:
            nonlocal writes
            writes += 1
            if crash_after is not None and writes > crash_after:
                raise Crash

        try:
            if made.traffic is not None:
                self._program(lowered(self.programmed, made.traffic))
                wrote()
            if made.status != self.status:
                self.status = LLMDeploymentStatus.model_validate_json(made.status.model_dump_json())
                self.status_problem = None
                self.writes += 1
                self._tell(made)
                wrote()
            if made.traffic is not None:
                self._program(made.traffic)
                if made.renew:
                    self.renewed_at = self.now
                wrote()
            for effect in made.effects:
                self._execute(effect)
                wrote()
        except Crash:
            self.restart()
        return made

    def _tell(self, made: Plan) -> None:
        self.notices.extend(made.notices)
        for notice in made.notices:
            mark = "!" if notice.kind == "Warning" else " "
            self.lines.append(f"{self.stamp} {mark} {notice.reason}: {self.rename(notice.message)}")

    def rename(self, text: str) -> str:
        """Revisions by letters, in order of their storing: a reader of a transcript knows them."""
        for name, letter in self.names.items():
            text = text.replace(name, letter)
        return text

    def _program(self, traffic: DeploymentTraffic) -> None:
        if traffic == self.programmed:
            return
        self.programmed = traffic
        self.programmed_at = self.now
        self._note_traffic(traffic)
        if self.ack_seconds == 0:
            self._deliver()

    def _deliver(self) -> None:
        if self.programmed is not None and self.alive and not self.cut_off:
            self.actual = self.programmed
            self.heard_at = self.now

    def _execute(self, effect: Effect) -> None:
        self._note(effect)
        match effect:
            case StoreRevision(record):
                self.records[record.name] = replace(record, created_at=self.now)
            case RejectRevision(revision, rejection):
                self.records[revision] = replace(self.records[revision], rejected=rejection)
            case ApplyWorkers(revision, replicas, role):
                assert revision in self.records
                self.config_maps.add(revision)
                self.workers[revision] = WorkerSet(
                    revision,
                    replicas,
                    role,
                    f"workers-{revision}",
                    template=self.records[revision].template,
                )
                self._scale(revision, replicas)
            case DeleteWorkers(revision):
                check_deletion(revision, self.actual, self.programmed)
                self.workers.pop(revision, None)
                self.config_maps.discard(revision)
                self._scale(revision, 0)
            case DeleteRevision(revision):
                del self.records[revision]
            case RemoveCommand(value, sequence):
                if self.command == value:
                    self.command = None
                    self.command_sequence = sequence

    def _note(self, effect: Effect) -> None:
        told = [type(effect).__name__]
        match effect:
            case StoreRevision(record):
                self.names.setdefault(record.name, f"<{chr(ord('A') + len(self.names))}>")
                told.append(record.name)
            case ApplyWorkers(revision, replicas, role):
                told += [revision, f"replicas={replicas}", f"role={role}"]
            case RejectRevision(revision, rejection):
                told += [revision, "rejected" if rejection is not None else "no longer rejected"]
            case DeleteWorkers(revision) | DeleteRevision(revision):
                told.append(revision)
            case RemoveCommand(_, sequence):
                told.append(f"sequence={sequence}")
        self.log.append(self.rename(" ".join(told)))
        self.lines.append(f"{self.stamp}     > {self.log[-1]}")

    @property
    def stamp(self) -> str:
        return str(self.now - START).split(".")[0]

    def _note_traffic(self, traffic: DeploymentTraffic) -> None:
        parts = [f"default {traffic.default or 'none'}"]
        for told in traffic.revisions:
            if told.share or told.mirror:
                copied = f", {told.mirror} copied" if told.mirror else ""
                parts.append(f"{told.revision} {told.share} of users{copied}")
        line = self.rename("; ".join(parts))
        if line != self.told_traffic:
            self.told_traffic = line
            self.lines.append(f"{self.stamp}     = {line}")

    def _scale(self, revision: str, replicas: int) -> None:
        mine = [p for p in self.pods if p.revision == revision and p.leaves_at is None]
        for pod in mine[replicas:]:
            pod.leaves_at = self.now + timedelta(seconds=10)
        for _ in range(replicas - len(mine)):
            self.named += 1
            self.pods.append(
                Pod(
                    f"pod-{self.named}",
                    revision,
                    self.now + timedelta(seconds=self.start_seconds),
                    broken=self.names.get(revision) in self.starts_broken,
                )
            )

    # Time.

    def advance(self, seconds: float) -> None:
        """Let time pass in the cluster and at the proxies, without a round of the operator."""
        left = seconds
        while left > 1e-9:
            piece = min(left, 0.5)
            self._pass(piece)
            left -= piece

    def _pass(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.pods = [p for p in self.pods if p.leaves_at is None or p.leaves_at > self.now]
        if self.alive and not self.cut_off:
            self.heard_at = self.now
            if (
                self.programmed is not None
                and self.actual != self.programmed
                and (self.now - self.programmed_at).total_seconds() >= self.ack_seconds
            ):
                self._deliver()
            lease = self.renewed_at
            if lease is not None and (self.now - lease).total_seconds() > LEASE:
                self._expire()
        elif (self.now - self.heard_at).total_seconds() > TTL:
            self._expire()
        self._serve(seconds)

    def _expire(self) -> None:
        if self.actual is not None:
            self.actual = replace(
                self.actual,
                revisions=tuple(replace(r, share=NONE, mirror=NONE) for r in self.actual.revisions),
            )

    def _serve(self, seconds: float) -> None:
        traffic = self.actual
        if traffic is None or traffic.default is None:
            return
        users = self.rate * seconds
        rest = 1.0
        for told in traffic.revisions:
            share = told.share.fraction
            self._count(told.revision, users * share, users * told.mirror.fraction)
            rest -= share
        self._count(traffic.default, users * max(0.0, rest), 0.0)
        listed = {told.revision: told for told in traffic.revisions}
        default = listed.get(traffic.default)
        fallback = listed.get(default.fallback or "") if default is not None else None
        if default is None or not (default.endpoints or (fallback and fallback.endpoints)):
            self.failed += users

    def _count(self, revision: str, live: float, mirrored: float) -> None:
        counts = self.counts.setdefault(revision, [0.0, 0.0])
        counts[0] += live
        counts[1] += mirrored
        self.served[revision] = self.served.get(revision, 0.0) + live
        if live > 0:
            self.last_issued[revision] = self.now

    def run(
        self,
        until: Callable[[World], bool] | None = None,
        *,
        seconds: float = 3600.0,
        crashes: dict[int, int] | None = None,
    ) -> int:
        """Rounds at the times the plans name, until ``until`` holds. Returns rounds made."""
        rounds = 0
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            made = self.round((crashes or {}).get(rounds))
            rounds += 1
            assert rounds < 20_000, "the state machine never comes to rest"
            if until is not None and until(self):
                return rounds
            wake = made.wake_after if made.wake_after is not None else 5.0
            # Readiness of a pod is an event: never wait across one.
            self.advance(min(max(wake, 0.1), 5.0))
        assert until is None, "\n".join([*self.lines, self.rename(self.status.message or "")])
        return rounds

    def restart(self, away: float = 0.0) -> None:
        """The operator dies and another process takes over after ``away`` seconds."""
        self.alive = False
        self.advance(away)
        self.alive = True
        self.life += 1
        self.epoch += 1
        self.born = self.now
        self.programmed = None
        self.renewed_at = None
        self.counts = {}
        self.last_issued = {}

    # What people do.

    def edit(self, spec: LLMDeploymentSpec) -> None:
        self.spec = spec
        self.generation += 1
        self.tell(f"spec: {spec.revision.model.uri}, replicas {spec.replicas}")

    def tell(self, what: str) -> None:
        """A line of the transcript for what a person or the world does."""
        self.lines.append(f"{self.stamp} # {what}")

    def say(self, command: str) -> None:
        """``{canary}`` and letters such as <B> stand for revisions."""
        for name, letter in self.names.items():
            command = command.replace(letter, name)
        self.command = command.replace("{canary}", self.status.canary_revision or "none")
        self.command_at = self.now
        self.tell(f"command: {self.rename(self.command)}")

    def name(self, letter: str) -> str:
        return next(name for name, given in self.names.items() if given == f"<{letter}>")

    def kill_container(self, revision: str, reason: str = "OOMKilled") -> None:
        pod = next(p for p in self.pods if p.revision == revision and p.leaves_at is None)
        number = len(pod.deaths)
        pod.deaths.append(
            ContainerDeath(f"{pod.name}/engine/{number}", self.now, reason, "exit code 137")
        )
        pod.ready_at = self.now + timedelta(seconds=self.start_seconds)
        self.tell(f"a container of {self.rename(revision)} dies: {reason}")

    @property
    def share(self) -> Share:
        """The share that the proxies really carry."""
        canary = self.status.canary_revision
        return self.actual.share_of(canary) if self.actual and canary else NONE
