"""Which directory is the project."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from devloop.cli.config import load_config
from devloop.cli.errors import ConfigError
from devloop.cli.project import confirm_root, find_project


def test_the_nearest_configured_directory_is_the_root(project: Path) -> None:
    below = project / "a" / "b"
    below.mkdir(parents=True)
    (project / "devloop.toml").write_text("target = 'local'\n")
    assert find_project(below).root == project
    (project / "a" / "devloop.toml").touch()
    assert find_project(below).root == project / "a"


def test_a_repository_ends_the_search_and_is_the_root(project: Path) -> None:
    (project / "devloop.toml").write_text("target = 'nowhere'\n")
    below = project / "repository" / "src"
    below.mkdir(parents=True)
    (project / "repository" / ".git").write_text("gitdir: elsewhere\n")  # as in a worktree
    assert load_config(below).root == project / "repository"


def test_without_any_mark_the_start_is_the_root(project: Path) -> None:
    (project / "sub").mkdir()
    assert load_config(str(project / "sub")).root == project / "sub"


def test_the_home_directory_configures_nothing_below_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(project))
    (project / "devloop.toml").write_text("target = 'nowhere'\n")
    (project / ".git").mkdir()
    (project / "work").mkdir()
    assert load_config(project / "work").root == project / "work"


def test_a_start_through_a_link_names_the_same_root(project: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(project)
    assert load_config(tmp_path / "link").root == project


def test_a_root_that_is_absent_or_a_file_is_an_error(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"^absent does not exist$"):
        load_config(Path("absent"))
    (project / "file").touch()
    with pytest.raises(ConfigError, match=r"^file is not a directory$"):
        load_config(Path("file"))


def test_a_current_directory_that_was_removed_is_an_error(project: Path) -> None:
    project.rmdir()
    with pytest.raises(ConfigError, match="the current directory does not exist"):
        load_config()


def test_root_and_home_are_refused_without_a_terminal(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(project))
    for root in (Path("/"), project, project.parent):
        with pytest.raises(ConfigError, match="would be synced") as caught:
            load_config(root)
        assert "-C DIR" in caught.value.hint
        assert load_config(root, will_sync=False).root == root


def _read_until(keyboard: int, end: bytes) -> bytes:
    seen = b""
    while end not in seen:
        seen += os.read(keyboard, 1000)
    return seen


@pytest.mark.parametrize(("answer", "confirmed"), [("y", True), ("n", False), ("", False)])
def test_root_is_confirmed_at_a_terminal(answer: str, confirmed: bool) -> None:
    keyboard, terminal = pty.openpty()
    os.write(keyboard, f"{answer}\n".encode())
    with os.fdopen(terminal) as answers, os.fdopen(os.dup(terminal), "w") as questions:
        assert confirm_root(Path("/"), answers, questions) is confirmed
        assert b"Sync all of it?" in _read_until(keyboard, b"[y/N]")
    os.close(keyboard)
