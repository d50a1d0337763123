"""The agent's lock on its state directory; `tests/e2e/test_two_agents.py` has the processes."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from devloop.cafs.dirs import DirectoryUnusable
from devloop.remote_agent.server import StateInUse, _state_locked

FIRST, SECOND = Path("/run/user/1/de vloop/agent.sock"), Path("/tmp/devloop-1/agent.sock")


def test_who_finds_a_state_directory_in_use_is_told_by_whom(tmp_path: Path) -> None:
    for _ in range(2):  # also when there was an agent before
        with _state_locked(tmp_path, FIRST):
            with pytest.raises(StateInUse, match=f"by the agent at {FIRST}$") as caught:
                lock(tmp_path)
            assert "DEVLOOP_RUNTIME_DIR='/run/user/1/de vloop' devloop down" in caught.value.hint
        lock(tmp_path)


def test_an_agent_on_another_machine_is_named_with_it(tmp_path: Path) -> None:
    """As in a home directory on a network."""
    with _state_locked(tmp_path, FIRST):
        (tmp_path / "agent.lock").write_text(f"{FIRST}\nother-box\n")
        with pytest.raises(StateInUse, match="on other-box"):
            lock(tmp_path)


def test_a_lock_that_names_nobody_yet_is_held_all_the_same(tmp_path: Path) -> None:
    with _state_locked(tmp_path, FIRST):
        os.truncate(tmp_path / "agent.lock", 0)
        with pytest.raises(StateInUse):
            lock(tmp_path)


def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DirectoryUnusable, match="cannot lock"):
        lock(tmp_path)


def lock(state_dir: Path) -> None:
    with _state_locked(state_dir, SECOND):
        pass
