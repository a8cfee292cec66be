"""A cached result is named by its inputs: the same inputs, the same name, and only then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from e2e.cluster.inputs import LENGTH, hash_inputs, list_files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("a = 1\n")
    (tmp_path / "package" / "b.py").write_text("b = 2\n")
    return tmp_path


def digest(tree: Path, *texts: str) -> str:
    return hash_inputs(tree, [tree / "package"], *texts)


def test_the_name_is_twelve_hex_characters(tree: Path) -> None:
    assert len(digest(tree)) == LENGTH == 12
    int(digest(tree), 16)


def test_times_and_caches_do_not_matter(tree: Path) -> None:
    before = digest(tree)
    os.utime(tree / "package" / "a.py", (1, 1))
    (tree / "package" / "__pycache__").mkdir()
    (tree / "package" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    (tree / "package" / "stale.pyc").write_bytes(b"x")
    assert digest(tree) == before


def test_the_place_of_the_tree_does_not_matter(tree: Path, tmp_path_factory: object) -> None:
    elsewhere = tree / "copy"
    (elsewhere / "package").mkdir(parents=True)
    for name in ("a.py", "b.py"):
        (elsewhere / "package" / name).write_text((tree / "package" / name).read_text())
    assert digest(elsewhere) == digest(tree)


@pytest.mark.parametrize("change", ["content", "name", "added", "removed", "executable"])
def test_every_change_of_a_file_gives_another_name(tree: Path, change: str) -> None:
    before = digest(tree)
    file = tree / "package" / "a.py"
    match change:
        case "content":
            file.write_text("a = 2\n")
        case "name":
            file.rename(file.with_name("c.py"))
        case "added":
            file.with_name("c.py").touch()
        case "removed":
            file.unlink()
        case "executable":
            file.chmod(0o755)
    assert digest(tree) != before


def test_the_seam_between_two_texts_matters(tree: Path) -> None:
    assert digest(tree, "ab", "c") != digest(tree, "a", "bc")


def test_a_missing_input_is_an_error_and_not_an_empty_hash(tree: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hash_inputs(tree, [tree / "absent"])


def test_a_file_named_and_inside_a_named_folder_counts_once(tree: Path) -> None:
    folder = tree / "package"
    assert list_files([folder, folder / "a.py"]) == [folder / "a.py", folder / "b.py"]
