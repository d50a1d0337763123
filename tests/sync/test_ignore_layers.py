"""The order of the layers, and what is always out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devloop.cafs.patterns import Patterns
from devloop.sync.ignore import Ignore, Level, find_repository

if TYPE_CHECKING:
    from pathlib import Path


def top(root: Path, *, ignore: tuple[str, ...] = (), outputs: tuple[str, ...] = ()) -> Level:
    return Ignore(root, ignore=ignore, outputs=outputs).top()


@pytest.mark.parametrize(
    "name",
    [".git", ".devloop", "__pycache__", "m.cpython-311.pyc", ".x.py.swp", ".x.swo", "4913", "x.py~",
     ".#x.py", "#x.py#", "x.py___jb_tmp___", "x.py___jb_old___", ".DS_Store", "x.vsctmp",
     ".devloop-tmp-1", ".goutputstream-ABC"],
)  # fmt: skip
def test_editors_temporary_files_are_always_out(tmp_path: Path, name: str) -> None:
    level = top(tmp_path, ignore=(f"!{name}", "!*")).with_files(b"!*\n", b"!*\n")
    assert level.ignored(name.encode(), False)
    assert level.ignored(name.encode(), True)


@pytest.mark.parametrize(
    "name", [".gitignore", ".devloopignore", ".env", "x.py", "4913.py", ".swp", "git", "a#b"]
)
def test_names_that_only_look_alike_stay_in(tmp_path: Path, name: str) -> None:
    assert not top(tmp_path).ignored(name.encode(), False)


def test_devloopignore_overrides_gitignore_at_any_depth(tmp_path: Path) -> None:
    root = top(tmp_path).with_files(b"!data/\n*.tmp\n", b"data/\n")
    below = root.child(b"sub").with_files(b"", b"data/\n!x.tmp\n")
    assert not root.ignored(b"data", True)
    assert not below.ignored(b"data", True)
    assert below.ignored(b"x.tmp", False)


def test_the_config_overrides_both_ignore_files(tmp_path: Path) -> None:
    level = top(tmp_path, ignore=("!keep.bin", "*.csv")).with_files(b"keep.bin\n!a.csv\n", b"")
    assert not level.ignored(b"keep.bin", False)
    assert level.ignored(b"a.csv", False)


def test_outputs_never_go_up_whatever_the_rest_says(tmp_path: Path) -> None:
    level = top(tmp_path, ignore=("!runs",), outputs=("runs/",)).with_files(b"!runs\n", b"")
    assert level.ignored(b"runs", True)
    assert not level.ignored(b"runs", False)


def test_a_pattern_without_a_slash_reaches_every_depth_and_one_with_it_does_not() -> None:
    patterns = Patterns(["runs/", "/out", "ckpt/*.pt"])
    assert patterns.match(b"a/b/runs/x.txt", False)
    assert patterns.match(b"out", False)
    assert not patterns.match(b"a/out", False)
    assert patterns.match(b"ckpt/1.pt", False)
    assert not patterns.match(b"ckpt/sub/1.pt", False)


def test_nothing_below_a_matched_directory_can_be_taken_out_again() -> None:
    assert Patterns(["runs/", "!runs/keep"]).match(b"runs/keep", False)


def test_the_level_stays_the_same_object_while_the_outer_files_do(tmp_path: Path) -> None:
    (tmp_path / ".git" / "info").mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    ignore = Ignore(tmp_path)
    first = ignore.top()
    assert ignore.top() is first
    (tmp_path / ".git" / "info" / "exclude").write_text("secret\n")
    assert ignore.top() is not first
    assert ignore.top().ignored(b"secret", False)


def test_a_linked_work_tree_is_found_by_its_git_file(tmp_path: Path) -> None:
    main = tmp_path / "main" / ".git"
    linked = main / "worktrees" / "w"
    linked.mkdir(parents=True)
    (linked / "commondir").write_text("../..\n")
    tree = tmp_path / "w"
    tree.mkdir()
    (tree / ".git").write_text(f"gitdir: {linked}\n")
    repository = find_repository(tree)
    assert repository is not None
    assert repository.git_dir == linked
    assert repository.common_dir.resolve() == main
