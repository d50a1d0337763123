"""A client's workspaces keep their names, whatever its machine is called."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import pytest

from devloop.cafs import dirs
from devloop.sync.identity import NAME, client_id
from devloop.sync.session import workspace_of


def test_a_workspace_is_the_same_under_another_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = workspace_of(Path("/home/a/project"), is_local=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere.example.com")
    assert workspace_of(Path("/home/a/project"), is_local=False) == before


def test_two_clients_have_two_workspaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = workspace_of(Path("/home/a/project"), is_local=False)
    monkeypatch.setenv("DEVLOOP_STATE_DIR", str(tmp_path / "other"))
    assert workspace_of(Path("/home/a/project"), is_local=False).id != one.id


def test_clients_that_start_at_once_agree() -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        found = pool.starmap(client_id, [()] * 64)
    assert len(set(found)) == 1
    assert sorted(os.listdir(dirs.state_dir())) == [NAME]


def test_it_is_the_users_alone() -> None:
    client_id()
    assert (dirs.state_dir() / NAME).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [b"", b"\xff", b"half"])
def test_a_damaged_one_is_made_anew(damage: bytes) -> None:
    client_id()
    (dirs.state_dir() / NAME).write_bytes(damage)
    made = client_id()
    assert made == client_id()
    assert len(made) == 32


def test_where_nothing_can_be_kept_it_is_the_hosts_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEVLOOP_STATE_DIR", str(tmp_path / "file" / "below"))
    assert client_id() == socket.gethostname()
