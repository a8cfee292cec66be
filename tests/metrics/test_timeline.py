"""Many workers, one clock: whatever is lost, late or repeated, a request counts once or not."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrollouts.analysis.counts import LatencySecond, Measurement, Metric, OutcomeSecond
from llmrollouts.metrics.cursor import SETTLES
from llmrollouts.metrics.page import Page, parse_page
from llmrollouts.metrics.port import Query
from llmrollouts.metrics.timeline import SILENCE, WARM_UP, Arm, ClosedSecond, Timeline
from tests.fakes.taps import FakeTap, Law

ASKED = Measurement(
    lags={Metric.TTFT: (2.0,), Metric.E2E: (3.0, 5.5)},
    exact={Metric.TTFT: (0.1,)},
    reference_tokens=64,
    outcome_lags=(2.0,),
)
START = 5000.0


class Field:
    """Workers with requests, read by hand; two arms."""

    def __init__(self, seed: int = 1, workers: int = 2, apart: float = 0.0) -> None:
        self.time = START
        self.rng = random.Random(seed)
        # Whole seconds apart: what arrives in a second of the reader is one cohort of each worker.
        skews = {"canary": 700.0, "control": 40.0}
        self.taps = {
            f"{arm}{i}": FakeTap(f"{arm}{i}", lambda: self.time, skew + 1000.0 * i + apart)
            for arm, skew in skews.items()
            for i in range(workers)
        }
        self.arms: dict[str, Arm] = {
            name: "canary" if name.startswith("canary") else "control" for name in self.taps
        }
        self.sent: Counter[str] = Counter()
        self.timeline = Timeline(ASKED, int(START) + 1)
        self.timeline.enlist(self.arms)
        self.closed: list[ClosedSecond] = []

    def serve(self, each: int = 5, names: list[str] | None = None) -> None:
        for name in names if names is not None else list(self.taps):
            for _ in range(each):
                self.taps[name].serve(self.time + self.rng.random(), Law(), self.rng)
                if self.time >= int(START) + 1:
                    self.sent[self.arms[name]] += 1
        self.time += 1.0

    def page(self, name: str) -> Page:
        since, boot = self.timeline.place_of(name)
        measured = ASKED if since is not None else None
        body = self.taps[name].page(Query(measured, since, boot))
        return parse_page(body, name, measured)

    def read(self, *names: str) -> None:
        for name in names or tuple(self.taps):
            self.timeline.take(name, self.page(name), self.time)
        self.closed += self.timeline.close(self.time)

    def counted(self, arm: Arm, lag: float = 2.0) -> int:
        """Requests of the TTFT stream that were closed."""
        return sum(
            (each.second.canary if arm == "canary" else each.second.control).total
            for each in self.closed
            if isinstance(each.second, LatencySecond)
            and each.second.stream.metric is Metric.TTFT
            and each.second.stream.lag == lag
        )

    def seconds(self) -> list[tuple[str, int]]:
        return [(_name(each), each.second.second) for each in self.closed]


def _name(each: ClosedSecond) -> str:
    second = each.second
    if isinstance(second, OutcomeSecond):
        return f"errors@{second.lag}"
    return f"{second.stream.metric}@{second.stream.lag}"


def test_every_second_of_both_arms_is_closed_once_and_in_order() -> None:
    field = Field()
    for _ in range(20):
        field.serve()
        field.read()
    assert field.counted("canary") == field.counted("control") == 2 * 5 * (20 - 1 - 3)
    for name in {name for name, _ in field.seconds()}:
        ticks = [tick for each, tick in field.seconds() if each == name]
        assert ticks == list(range(int(START) + 1, int(START) + 1 + len(ticks)))


def test_the_workers_of_the_canary_are_told_apart() -> None:
    field = Field()
    for number in range(12):
        field.serve(3, ["canary0", "control0"])
        if number % 2:
            field.serve(4, ["canary1", "control1"])
        field.read()
    latency = [each.second for each in field.closed if isinstance(each.second, LatencySecond)]
    assert latency
    for second in latency:
        parts = second.workers
        assert sum(counts.total for counts in parts.values()) == second.canary.total
        assert {name: counts.total for name, counts in parts.items()}.items() <= {
            ("canary0", 3),
            ("canary1", 4),
        }
    assert {name for second in latency for name in second.workers} == {"canary0", "canary1"}


def test_copies_of_pages_count_nothing() -> None:
    field = Field()
    for _ in range(15):
        field.serve()
        pages = {name: field.page(name) for name in field.taps}
        for _ in range(3):
            for name, page in pages.items():
                field.timeline.take(name, page, field.time)
            field.closed += field.timeline.close(field.time)
    assert field.counted("canary") == 2 * 5 * (15 - 1 - 3)


def test_a_missed_read_is_made_up_for_by_the_next() -> None:
    field = Field()
    for number in range(15):
        field.serve()
        if number % 3 == 0:
            field.read()
    field.read()
    assert field.counted("canary") == 2 * 5 * (15 - 1 - 3)


def test_a_silent_worker_is_waited_for_and_then_left_out() -> None:
    field = Field()
    for _ in range(5):
        field.serve()
        field.read()
    others = [name for name in field.taps if name != "control1"]
    before = len(field.closed)
    for _ in range(int(SILENCE)):
        field.serve()
        field.read(*others)
    assert len(field.closed) == before
    field.serve()
    field.read(*others)
    left_out = [each for each in field.closed[before:] if each.control_workers == 1]
    assert left_out
    assert all(each.canary_workers == 2 for each in field.closed[before:])
    # It comes back: what is closed stays closed, what is open has it again.
    dropped = field.timeline.dropped
    for _ in range(8):
        field.serve()
        field.read()
    assert field.timeline.dropped > dropped
    assert field.closed[-1].control_workers == 2
    assert len(field.seconds()) == len(set(field.seconds()))


def test_without_any_canary_worker_there_are_no_seconds() -> None:
    field = Field()
    control = [name for name in field.taps if name.startswith("control")]
    for _ in range(15):
        field.serve()
        field.read(*control)
    assert field.closed == []
    assert field.timeline.lives_of("canary", field.time) == frozenset()


def test_a_worker_that_vanishes_leaves_what_it_had_delivered() -> None:
    field = Field()
    for _ in range(10):
        field.serve()
        field.read()
    told = field.counted("canary")
    del field.arms["canary1"]
    field.timeline.enlist(field.arms)
    for _ in range(5):
        field.serve(names=list(field.arms))
        field.read(*field.arms)
    assert told < field.counted("canary") <= field.sent["canary"]
    assert field.closed[-1].canary_workers == 1


def test_a_new_life_has_its_own_clock_is_cold_and_repeats_nothing() -> None:
    field = Field()
    for _ in range(10):
        field.serve()
        field.read()
    told = field.counted("canary")
    field.taps["canary0"].restart()
    field.taps["canary0"].skew += 4000
    field.read()
    assert field.counted("canary") == told
    assert field.timeline.restarted() == {"canary0"}
    before = len(field.closed)
    for _ in range(int(WARM_UP) - 1):
        field.serve()
        field.read()
    assert {each.canary_workers for each in field.closed[before + 20 :]} == {1}
    for _ in range(8):
        field.serve()
        field.read()
    assert field.closed[-1].canary_workers == 2
    assert field.counted("canary") <= field.sent["canary"]


def test_a_gap_longer_than_workers_remember_is_dropped_and_said() -> None:
    field = Field(workers=1)
    for _ in range(6):
        field.serve()
        field.read()
    field.time += 3600
    before, dropped = field.counted("canary"), field.timeline.dropped
    field.read()
    field.serve()
    field.read()
    assert field.counted("canary") - before <= 2 * 5
    assert field.timeline.dropped > dropped


def test_a_restart_goes_on_where_it_stood_and_reads_the_gap_again() -> None:
    whole, cut, stored = Field(seed=7), Field(seed=7), ""
    for number in range(30):
        whole.serve()
        whole.read()
        cut.serve()
        if 12 < number < 18:
            continue  # nobody reads
        if number == 18:
            cut.timeline = Timeline.from_json(stored, ASKED, cut.time)
            cut.timeline.enlist(cut.arms)
            assert cut.timeline.to_json() == stored
        cut.read()
        if number == 12:
            stored = cut.timeline.to_json()
    assert sorted(cut.seconds()) == sorted(whole.seconds())
    assert cut.counted("canary") == whole.counted("canary")


@settings(max_examples=20)
@given(data=st.data())
def test_whatever_happens_to_pages_a_request_counts_once_or_not_at_all(data: st.DataObject) -> None:
    apart = data.draw(st.sampled_from((0.0, 0.3, 0.7)))
    field, orderly = Field(seed=3, apart=apart), Field(seed=3, apart=apart)
    kept: list[tuple[str, Page, float]] = []
    for _ in range(data.draw(st.integers(6, 14))):
        field.serve(each=3)
        orderly.serve(each=3)
        orderly.read()
        for name in data.draw(st.permutations(list(field.taps))):
            what = data.draw(st.sampled_from(("take", "take", "take", "lose", "keep", "restart")))
            if what == "restart" and name.startswith("control"):
                field.taps[name].restart()
            if what in ("take", "restart"):
                field.timeline.take(name, field.page(name), field.time)
            elif what == "keep":
                kept.append((name, field.page(name), field.time))
        for name, page, at in (
            data.draw(st.lists(st.sampled_from(kept), max_size=4)) if kept else []
        ):
            field.timeline.take(name, page, at)
        field.closed += field.timeline.close(field.time)
    assert len(set(field.seconds())) == len(field.seconds())
    truth = {(_name(each), each.second.second): each.second for each in orderly.closed}
    for each in field.closed:
        sure = truth.get((_name(each), each.second.second))
        if sure is None:
            continue
        assert each.second.canary.total <= sure.canary.total
        assert each.second.control.total <= sure.control.total
    edge = 0 if apart == 0.0 else 2 * 3  # a cohort may lie across the first second
    assert field.counted("canary") <= field.sent["canary"] + edge
    assert field.counted("control") <= field.sent["control"] + edge


def _phases(field: Field, **behind: float) -> None:
    """Clocks of machines of their own: seconds by which each worker's seconds end later."""
    for name, late in behind.items():
        field.taps[name].skew += late


def test_the_canarys_second_waits_for_no_other_workers_clock() -> None:
    """Control's seconds are taken that end by then, whatever part of a second lies between."""
    for late in (0.05, 0.3, 0.5, 0.7, 0.95):
        field = Field(workers=1)
        _phases(field, canary0=0.2, control0=0.2 + late)
        for _ in range(8):
            field.serve()
            field.read()
        closes = field.timeline.closes_at(field.time)
        assert closes is not None
        own = 0.2 + 2.0 + SETTLES  # the end of its second, the youngest age, the last records
        assert own - 1e-6 <= closes % 1 + 2 <= own + 0.1 + 1e-6
        # Read just then, control's part is there.
        field.time += 1 + (closes - field.time) % 1 + 0.001
        before = len(field.closed)
        field.read()
        last = max(each.second.second for each in field.closed[before:])
        assert field.closed[before:][-1].control_workers == 1
        assert last + 1 + closes == pytest.approx(field.time, abs=0.01)


def test_of_several_canary_workers_those_that_wait_are_few_and_wait_little() -> None:
    field = Field(workers=3)
    _phases(field, canary0=0.30, canary1=0.35, canary2=-0.05, control0=0.4, control1=-0.1)
    for _ in range(6):
        field.serve()
        field.read()
    closes = field.timeline.closes_at(field.time)
    assert closes is not None
    assert closes % 1 == pytest.approx((0.35 + SETTLES) % 1, abs=0.06)


def test_a_single_page_that_was_held_up_moves_nothing() -> None:
    field = Field()
    for _ in range(9):
        field.serve()
        field.read()
    closes = field.timeline.closes_at(field.time)
    field.serve()
    pages = {name: field.page(name) for name in field.taps}
    for name, page in pages.items():
        field.timeline.take(name, page, field.time + (0.4 if name == "control0" else 0.0))
    assert field.timeline.closes_at(field.time) == closes


def test_nobody_is_heard_and_no_moment_is_known() -> None:
    field = Field()
    assert field.timeline.closes_at(field.time) is None
    field.serve()
    field.read()
    assert field.timeline.closes_at(field.time) is not None
    assert field.timeline.closes_at(field.time + SILENCE + 1) is None


def test_what_an_older_operator_stored_is_read() -> None:
    field = Field()
    for _ in range(8):
        field.serve()
        field.read()
    stored = json.loads(field.timeline.to_json())
    del stored["edge"]
    told = field.counted("canary")
    field.timeline = Timeline.from_json(json.dumps(stored), ASKED, field.time)
    field.timeline.enlist(field.arms)
    field.taps["control1"].restart()
    for _ in range(15):
        field.serve()
        field.read()
    assert field.counted("canary") == told + 15 * 2 * 5
    assert field.closed[-1].control_workers == 2
