"""What load reports add up to; the figures of each case were measured on a real Envoy."""

from __future__ import annotations

from datetime import timedelta

import pytest
from envoy_data_plane.envoy.config.core.v3 import Locality, Node
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterStats, UpstreamLocalityStats
from envoy_data_plane.envoy.service.load_stats.v3 import LoadStatsRequest

from llmrollouts.rollout.intent import RequestCounts
from llmrollouts.traffic.load import LoadBook, LocalityLoad
from llmrollouts.traffic.lrs import read_report
from llmrollouts.traffic.names import ClusterName

LIVE = ClusterName("live", "uid", "b")
MIRROR = ClusterName("mirror", "uid", "b")
STABLE = ClusterName("live", "uid", "a")


def load(
    cluster: ClusterName = LIVE,
    priority: int = 0,
    *,
    issued: int = 0,
    succeeded: int = 0,
    failed: int = 0,
    in_progress: int = 0,
) -> LocalityLoad:
    return LocalityLoad(cluster, priority, issued, succeeded, failed, in_progress)


def counted(*loads: LocalityLoad) -> RequestCounts:
    book = LoadBook(0.0)
    book.record("g", loads, 1.0)
    return book.counts("uid")["b"]


@pytest.mark.parametrize(
    ("what", "loads", "counts"),
    [
        ("all well", [load(issued=100, succeeded=100)], RequestCounts(100, 0, 0, 0)),
        (
            "all answered 500, all saved",
            [load(issued=100, failed=100), load(priority=1, issued=100, succeeded=100)],
            RequestCounts(100, 100, 100, 0),
        ),
        (
            "all refused, all saved: an error that was never issued",
            [load(failed=100), load(priority=1, issued=100, succeeded=100)],
            RequestCounts(100, 100, 100, 0),
        ),
        (
            "no worker: all went round",
            [load(priority=1, issued=100, succeeded=100)],
            RequestCounts(100, 100, 100, 0),
        ),
        (
            "half failed, one of these at stable too",
            [
                load(issued=100, succeeded=50, failed=50),
                load(priority=1, issued=50, succeeded=49, failed=1),
            ],
            RequestCounts(100, 49, 50, 0),
        ),
        (
            "long answers under way, and some refused",
            [load(issued=80, in_progress=80, failed=20), load(priority=1, issued=20)],
            RequestCounts(100, 20, 20, 0),
        ),
        ("copies only", [load(MIRROR, issued=30, succeeded=30)], RequestCounts(0, 0, 0, 30)),
    ],
)
def test_requests_are_counted_once(
    what: str, loads: list[LocalityLoad], counts: RequestCounts
) -> None:
    assert counted(*loads) == counts, what


def test_counts_never_fall() -> None:
    book = LoadBook(0.0)
    book.record("g", [load(issued=10, in_progress=10)], 1.0)
    book.record("g", [load(succeeded=10)], 2.0)
    assert book.counts("uid")["b"].issued == 10
    book.end("g")
    assert book.counts("uid")["b"].issued == 10


def test_quiet_is_since_the_last_report_with_a_new_request() -> None:
    book = LoadBook(0.0)
    book.record("g", [load(MIRROR, issued=5)], 1.0)
    assert book.quiet_seconds("uid", 4.0) == {"b": None}
    book.record("g", [load(issued=1, in_progress=1)], 2.0)
    book.record("g", [load(succeeded=1)], 3.0)
    assert book.quiet_seconds("uid", 4.0) == {"b": 2.0}


def test_recent_shares_are_of_the_last_ten_seconds() -> None:
    book = LoadBook(0.0)
    book.record("g", [load(issued=1000, succeeded=1000)], 1.0)
    book.record("g", [load(STABLE, issued=950, succeeded=950)], 15.0)
    book.record("h", [load(issued=50, succeeded=50), load(MIRROR, issued=100)], 16.0)
    recent = book.recent("uid", 20.0)
    assert recent.live == {"a": 0.95, "b": 0.05}
    assert recent.mirrored == {"a": 0.0, "b": 0.1}
    assert recent.rate == 100.0
    assert book.recent("uid", 40.0).rate == 0.0


def test_the_age_of_reports_is_that_of_the_stalest_gateway() -> None:
    book = LoadBook(0.0)
    assert book.report_age((), 1.0) is None
    book.record("g", [], 1.0)
    book.record("h", [], 4.0)
    assert book.report_age(("g", "h"), 5.0) == 4.0
    assert book.report_age(("g", "h", "i"), 5.0) is None
    book.end("g")
    assert book.report_age(("g",), 5.0) is None


def test_a_forgotten_deployment_leaves_no_count() -> None:
    book = LoadBook(0.0)
    book.record("g", [load(issued=1)], 1.0)
    book.forget("uid")
    assert book.counts("uid") == {}
    assert book.recent("uid", 1.0).rate == 0.0


def test_a_report_is_read_from_the_wire_and_foreign_clusters_are_left_out() -> None:
    message = LoadStatsRequest(
        node=Node(id="g"),
        cluster_stats=[
            ClusterStats(cluster_name="xds", load_report_interval=timedelta(seconds=1)),
            ClusterStats(
                cluster_name="live/uid/b",
                upstream_locality_stats=[
                    UpstreamLocalityStats(
                        locality=Locality(sub_zone="a"),
                        priority=1,
                        total_issued_requests=7,
                        total_successful_requests=5,
                        total_error_requests=1,
                        total_requests_in_progress=1,
                    )
                ],
            ),
            ClusterStats(cluster_name="mirror/uid/b"),
        ],
    )
    assert list(read_report(bytes(message))) == [
        load(priority=1, issued=7, succeeded=5, failed=1, in_progress=1),
        load(MIRROR),
    ]


def test_a_broken_report_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond the end"):
        list(read_report(b"\x12\x7f\x01"))
