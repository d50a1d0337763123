"""Where devloop keeps its files, and whom it trusts with them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devloop.cafs import dirs
from devloop.cafs.dirs import DirectoryUnusable, ensure_own, ensure_private, is_private
from devloop.sync import local

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


def mode(directory: Path) -> int:
    return directory.stat().st_mode & 0o7777


@pytest.mark.parametrize("ensure", [ensure_private, ensure_own])
def test_what_is_made_is_the_users_alone(tmp_path: Path, ensure: object) -> None:
    directory = tmp_path / "a" / "b"
    for _ in range(2):
        ensure(directory)  # type: ignore[operator]
        assert (mode(directory), mode(directory.parent)) == (0o700, 0o700)


def test_a_directory_for_the_socket_that_others_may_enter_is_refused_and_left_as_it_is(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(DirectoryUnusable, match="others may enter") as caught:
        ensure_private(tmp_path)
    assert "DEVLOOP_RUNTIME_DIR" in caught.value.hint
    assert mode(tmp_path) == 0o1777


def test_a_state_directory_that_others_may_look_into_serves_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    ensure_own(tmp_path)
    assert mode(tmp_path) == 0o755


def test_a_state_directory_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(DirectoryUnusable, match="everybody may write"):
        ensure_own(tmp_path)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for check in (ensure_private, ensure_own, is_private):
        with pytest.raises(DirectoryUnusable, match="not a directory of yours"):
            check(tmp_path / "file")


def test_a_link_to_nowhere_is_no_place_for_a_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for ensure in (ensure_private, ensure_own):
        with pytest.raises(DirectoryUnusable, match="cannot make"):
            ensure(tmp_path / "link" / "below")


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a user without XDG_RUNTIME_DIR has the socket."""
    for name in ("DEVLOOP_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name)
    user = 3_000_000_000 + os.getpid()
    monkeypatch.setattr(os, "getuid", lambda: user)
    directory = Path(f"/tmp/devloop-{user}")
    yield directory
    if directory.exists():
        directory.rmdir()


def test_a_directory_in_tmp_that_somebody_else_made_is_not_used(shared: Path) -> None:
    assert dirs.runtime_dir() == shared
    shared.mkdir()  # by the tests' user, who is not the one that asks
    assert dirs.runtime_dir() == dirs.state_dir() / "run"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_socket_directory_that_somebody_else_has_closed_is_named() -> None:
    """Of mode 0700 and root's, to a user who may not even look for a socket there."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            asyncio.run(local.connect_if_running())
        except DirectoryUnusable:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
