"""Whatever happens, in whatever order: the rules of the world hold and it comes to rest."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmrollouts.api.share import Share
from llmrollouts.api.status import LLMDeploymentStatus, Proof, Verdict
from llmrollouts.rollout.observation import Gate
from tests.rollout.latency import LatencyGate
from tests.rollout.specs import make_spec
from tests.rollout.world import World

STEPS: list[dict[str, object]] = [
    {"shadow": {"share": "5%", "duration": "6s", "minRequests": 1}},
    {"canary": {"share": "1%", "duration": "6s", "minRequests": 1}},
    {"canary": {"share": "25%", "duration": "6s", "minRequests": 1}},
    {"canary": {"share": "50%", "duration": "6s", "minRequests": 1}},
]
OTHER_STEPS: list[dict[str, object]] = [
    {"canary": {"share": "2%", "duration": "6s", "minRequests": 1}},
    {"canary": {"share": "30%", "duration": "6s", "minRequests": 1}},
]
VERBS = (
    "promote:{canary}",
    "promote-full:{canary}",
    "skip:{canary}",
    "pause",
    "resume",
    "rollback",
    "refresh",
    "retry:<B>",
    "rollback:<A>",
    "nonsense:::",
)


class Rollouts(RuleBasedStateMachine):
    """People, faults and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(start_seconds=3.0)
        self.model = "one"
        self.replicas = 4
        self.extra: int | None = None
        self.steps = STEPS
        self.mode = "Enforce"
        self.outcome = "Hold"
        self.said = 0
        self.tried = 0
        self.jumps = True

    def edit(self) -> None:
        spec = make_spec(
            self.model,
            replicas=self.replicas,
            steps=self.steps,
            rollback_window="20s",
            max_extra_replicas=self.extra,
            latency=self.mode,
            on_inconclusive=self.outcome,
        )
        if spec != self.world.spec:
            self.world.edit(spec)
            self.jumps = True

    @initialize(
        extra=st.sampled_from([None, 0, 1, 2, 8]),
        outcome=st.sampled_from(["Hold", "Rollback"]),
        rounds=st.integers(0, 30),
    )
    def begin(self, extra: int | None, outcome: str, rounds: int) -> None:
        self.extra = extra
        self.outcome = outcome
        self.edit()
        if rounds:
            # Somewhere in a rollout, where most of what can go wrong does.
            self.world.run(lambda w: w.status.phase == "Serving")
            self.model = "two"
            self.edit()
            self.play(rounds)

    def play(self, rounds: int, crash: int | None = None) -> None:
        for index in range(rounds):
            before = self.world.status
            made = self.world.round(crash if index == 0 else None)
            self.check_steps(before, self.world.status)
            if self.world.command is None and not (crash is not None and index == 0):
                self.jumps = False
            wake = made.wake_after if made.wake_after is not None else 5.0
            self.world.advance(min(max(wake, 0.1), 5.0))

    def check_steps(self, before: LLMDeploymentStatus, after: LLMDeploymentStatus) -> None:
        """No step is left out unless a person said so."""
        same = before.canary_revision == after.canary_revision is not None
        if same and not self.jumps and before.step is not None and after.step is not None:
            assert after.step.index <= before.step.index + 1
            if before.promotion is None and after.promotion is not None:
                assert before.step.index == len(self.world.spec.strategy.steps) - 1

    @rule(rounds=st.integers(1, 25))
    def time_passes(self, rounds: int) -> None:
        self.play(rounds)

    @rule(model=st.sampled_from(["one", "two", "three"]))
    def the_revision_is_edited(self, model: str) -> None:
        self.model = model
        self.edit()
        self.play(1)

    @rule(replicas=st.integers(1, 6))
    def the_size_is_edited(self, replicas: int) -> None:
        self.replicas = replicas
        self.edit()
        self.play(2)

    @rule()
    def the_steps_are_edited(self) -> None:
        self.steps = OTHER_STEPS if self.steps is STEPS else STEPS
        before = Share.parse(self.world.status.share or "0%")
        canary = self.world.status.canary_revision
        self.edit()
        made = self.world.round()
        if canary is not None and made.traffic is not None and made.status.promotion is None:
            lapsed = made.status.lapse is not None and not made.status.lapse.active
            assert lapsed or made.traffic.share_of(canary) <= before

    @rule(verb=st.sampled_from(VERBS), rounds=st.integers(0, 3))
    def a_person_gives_a_command(self, verb: str, rounds: int) -> None:
        if "<B>" in verb and "<B>" not in self.world.names.values():
            return
        self.said += 1
        self.jumps = True
        self.world.say(f"{verb}/{self.said}")
        self.play(rounds)

    @rule(writes=st.integers(0, 7))
    def the_operator_dies_between_two_writes(self, writes: int) -> None:
        self.play(2, crash=writes)

    @rule(away=st.floats(0.0, 40.0))
    def the_operator_is_away(self, away: float) -> None:
        self.world.restart(away)
        self.play(1)

    @precondition(lambda self: self.world.pods)
    @rule(which=st.integers(0, 20), excused=st.booleans())
    def a_container_dies(self, which: int, excused: bool) -> None:
        pods = [pod for pod in self.world.pods if pod.leaves_at is None]
        if not pods:
            return
        pod = pods[which % len(pods)]
        pod.excused = excused
        pod.ready_at = self.world.now + timedelta(seconds=3)
        if not excused:
            self.world.kill_container(pod.revision)
        self.play(1)

    @rule()
    def the_gateways_are_cut_off_for_a_while(self) -> None:
        self.world.cut_off = True
        self.play(6)
        self.world.cut_off = False

    @rule()
    def the_status_is_wiped(self) -> None:
        self.world.status = LLMDeploymentStatus()
        self.jumps = True
        self.play(1)

    @rule(rounds=st.integers(3, 12))
    def a_revision_is_tried_that_never_was(self, rounds: int) -> None:
        self.tried += 1
        self.model = f"new-{self.tried}"
        self.edit()
        self.play(rounds)

    @rule(
        verdict=st.sampled_from([*get_args(Verdict), "Passed", "Inconclusive", "Error"]),
        proof=st.sampled_from(["Proven", "Collecting"]),
        rounds=st.integers(1, 16),
    )
    def the_latency_gate_speaks(self, verdict: Verdict, proof: Proof, rounds: int) -> None:
        """Only Passed and Proven pass a step by themselves; only Failed rolls back by itself."""
        before, quiet = self.world.status, self.quiet
        self.world.latency.say(verdict, "Reason", "numbers", proof)
        self.play(rounds)
        self.check_evidence(before, quiet, verdict, proof)
        self.world.latency = LatencyGate()

    @rule(rounds=st.integers(1, 16))
    def the_latency_gate_is_silent(self, rounds: int) -> None:
        before, quiet = self.world.status, self.quiet
        self.world.latency.silent = True
        self.play(rounds)
        self.check_evidence(before, quiet, "Inconclusive", "Collecting")
        self.world.latency = LatencyGate()

    @rule(verdict=st.sampled_from([*get_args(Verdict), "Inconclusive", "Error"]))
    def a_gate_of_the_users_speaks(self, verdict: Verdict) -> None:
        before, quiet = self.world.status, self.quiet
        self.world.gates = (Gate("prometheus/cost", verdict, "Reason", "numbers"),)
        self.play(3)
        self.check_evidence(before, quiet, verdict, "Proven")
        self.world.gates = ()

    @rule(mode=st.sampled_from(["Enforce", "Enforce", "Observe", "Off"]))
    def the_mode_is_edited(self, mode: str) -> None:
        self.mode = mode
        self.edit()
        self.play(2)

    @property
    def quiet(self) -> bool:
        return self.world.command is None and not self.jumps

    def check_evidence(
        self, before: LLMDeploymentStatus, quiet: bool, verdict: Verdict, proof: Proof
    ) -> None:
        """quiet: nobody's command or edit was on its way when the gate began to speak."""
        after = self.world.status
        if self.mode != "Enforce" or before.canary_revision is None or before.step is None:
            return
        same = before.canary_revision == after.canary_revision
        if verdict == "Failed" and same and before.attempt is not None and before.attempt.stage:
            # Users who already have the new revision as their default are past the gate's reach
            # only when the roles have swapped.
            assert after.attempt is not None
            assert after.attempt.number > before.attempt.number, "a failed canary stayed"
        if same and quiet and self.quiet and after.step is not None and before.promotion is None:
            passes = verdict == "Passed"
            assert passes or after.step.index <= before.step.index
            assert passes or after.promotion is None
            small = Share.parse(after.step.share) <= Share.parse("5%")
            assert proof == "Proven" or small or after.step.index <= before.step.index

    @invariant()
    def the_proxies_never_exceed_the_committed_step(self) -> None:
        status, actual = self.world.status, self.world.actual
        if actual is None or not self.world.alive or self.world.cut_off:
            return
        if actual != self.world.programmed:
            return
        for told in actual.revisions:
            warm = status.warm.revision if status.warm is not None else None
            if told.share:
                assert told.revision in (status.canary_revision, warm)
            if told.revision == warm and told.revision != status.canary_revision:
                assert told.share <= Share.parse("1%")

    @invariant()
    def an_attempt_never_spends_more_than_its_budget(self) -> None:
        attempt = self.world.status.attempt
        if attempt is not None:
            assert 0 < attempt.error_budget <= 0.01
            assert attempt.level <= attempt.spent <= attempt.error_budget * (1 + 1e-12)

    def rests(self) -> bool:
        status = self.world.status
        return (
            status.canary_revision is None
            and not status.retiring
            and status.stable_revision is not None
            and self.world.command is None
            and self.world.programmed == self.world.actual
            and status.phase in ("Serving", "Degraded")
        )

    def teardown(self) -> None:
        """Left alone, it comes to rest, and nothing of a dead revision is left (R18)."""
        world = self.world
        world.cut_off = False
        world.gates = ()
        world.latency = LatencyGate()
        if self.replicas == 1 and self.extra == 0:
            # One worker and no room for another: no rollout is possible, as the status says.
            self.extra = 1
            self.edit()
        if world.status.paused or world.status.hold:
            world.say("resume/end")
        world.advance(5)
        for _ in range(4):
            if world.status.hold is not None:
                world.say(f"promote:{{canary}}/end{world.status.hold[:2]}{self.said}")
                self.said += 1
            self.jumps = True
            for _ in range(40):
                self.play(8)
                if self.rests():
                    break
        status = world.status
        living = {
            name
            for name in (
                status.stable_revision,
                status.canary_revision,
                status.warm.revision if status.warm else None,
            )
            if name is not None
        }
        if status.stable_revision is None:
            living.add(next(iter(world.workers), ""))
        assert not status.retiring, world.rename(str(status.retiring))
        assert set(world.workers) <= living
        assert world.actual is not None
        assert {told.revision for told in world.actual.revisions} <= living
        assert status.canary_revision is None, "\n".join(
            [*world.lines[-30:], world.rename(status.message or "")]
        )
        assert not any(told.share or told.mirror for told in world.actual.revisions)


Rollouts.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    # A failing rollout is read from its transcript; making it shorter takes minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
TestRollouts = Rollouts.TestCase
