"""Programs are built when their inputs are new, and a build that failed leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.cluster import binaries
from e2e.cluster.binaries import Build, ensure_binaries, parse_go_version
from e2e.cluster.places import Places
from e2e.cluster.steps import CannotContinueError


def make_build(inputs: str, made: list[str], program: str = "tool") -> Build:
    def make(out: Path) -> None:
        made.append(inputs)
        if inputs == "broken":
            (out / program).write_text("half")
            raise CannotContinueError("the compiler said no")
        if inputs != "empty":
            (out / program).write_text(inputs)

    return Build("tools", (program,), inputs, "seconds", make)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.setattr(binaries, "_require_go", lambda: None)
    return Places(tmp_path)


def use(monkeypatch: pytest.MonkeyPatch, build: Build) -> None:
    monkeypatch.setattr(binaries, "list_builds", lambda: (build,))


def test_the_same_inputs_are_built_once(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    use(monkeypatch, make_build("one", made))
    ensure_binaries(places)
    ensure_binaries(places)
    assert made == ["one"]
    assert (places.bin / "tool").read_text() == "one"


def test_new_inputs_are_built_and_the_name_follows(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    for inputs in ("one", "two", "one"):
        use(monkeypatch, make_build(inputs, made))
        ensure_binaries(places)
        assert (places.bin / "tool").read_text() == inputs
    assert made == ["one", "two"]


@pytest.mark.parametrize("inputs", ["broken", "empty"])
def test_a_failed_build_leaves_nothing_that_looks_finished(
    places: Places, monkeypatch: pytest.MonkeyPatch, inputs: str
) -> None:
    use(monkeypatch, make_build(inputs, []))
    with pytest.raises(CannotContinueError):
        ensure_binaries(places)
    assert [p.name for p in places.bin.iterdir()] == [".lock"]


def test_go_versions_are_read() -> None:
    assert parse_go_version("go1.26.8\n") == (1, 26)
    assert parse_go_version("go1.9") < binaries.OLDEST_GO
    with pytest.raises(CannotContinueError, match="no version"):
        parse_go_version("devel")


def test_the_module_pins_the_version_that_is_named() -> None:
    module = (Path(binaries.__file__).parent / "kubernetes" / "go.mod").read_text()
    assert f"require k8s.io/kubernetes {binaries.KUBERNETES}\n" in module
