"""What is cleaned up is found by this cluster's own names, whatever state it was left in."""

from __future__ import annotations

from pathlib import Path

from e2e.cluster.leftovers import parse_mounts, tells_of_a_broken_store

MOUNTS = """\
24 1 254:0 / / rw - ext4 /dev/root rw
30 24 0:5 / /cache/cluster rw - tmpfs tmpfs rw
31 24 0:5 / /cache/cluster/kubelet/pods/a/volumes/token rw - tmpfs tmpfs rw
32 31 0:6 / /cache/cluster/kubelet/pods/a/volumes/token/inner rw - tmpfs tmpfs rw
33 24 0:7 / /cache/cluster-of-another/x rw - tmpfs tmpfs rw
34 24 0:8 / /cache/cluster/with\\040space rw - tmpfs tmpfs rw
"""


def test_mounts_below_the_folder_come_the_deepest_first() -> None:
    assert parse_mounts(MOUNTS, Path("/cache/cluster")) == [
        "/cache/cluster/with space",
        "/cache/cluster/kubelet/pods/a/volumes/token/inner",
        "/cache/cluster/kubelet/pods/a/volumes/token",
    ]


def test_the_folder_itself_and_its_namesakes_are_left_alone() -> None:
    found = parse_mounts(MOUNTS, Path("/cache/cluster"))
    assert "/cache/cluster" not in found
    assert not any("another" in point for point in found)


def test_only_unreadable_files_count_as_a_broken_store() -> None:
    assert tells_of_a_broken_store("C | etcdmain: wal: max entry size limit exceeded")
    assert tells_of_a_broken_store("walpb: crc mismatch")
    assert not tells_of_a_broken_store("listen tcp 127.0.0.1:2379: bind: address already in use")
    assert not tells_of_a_broken_store("etcd did not answer within 30 s")
