"""Listing and reading outputs, on the agent's side."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.digest import digest_of
from devloop.cafs.errors import DevloopError
from devloop.cafs.store import DiskStore
from devloop.remote_agent.outputs import PIECE_BYTES, OutputChanged, list_outputs, read_output
from devloop.remote_agent.workspace import Workspace

from .trees import ADir, AFile, make_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with DiskStore(tmp_path / "store") as store:
        workspace = Workspace(tmp_path / "w", store, "test")
        tree = make_tree(store, {b"runs": ADir({b"synced": AFile(b"1")}), b"a.py": AFile(b"1")})
        workspace.apply(workspace.stage(tree.digest))
        yield workspace


def write(workspace: Workspace, path: str, data: bytes = b"data") -> os.stat_result:
    place = workspace.files / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place.stat()


def listed(workspace: Workspace, *patterns: str) -> list[bytes]:
    return [output.path for output in list_outputs(workspace, list(patterns))]


def test_what_matches_is_listed_in_order_and_what_sync_made_never(workspace: Workspace) -> None:
    for path in ("runs/b", "runs/a/x", "m.pt", "deep/er/m.pt", "runs-2/no"):
        write(workspace, path)
    assert listed(workspace, "runs/", "*.pt") == [b"deep/er/m.pt", b"m.pt", b"runs/a/x", b"runs/b"]
    assert b"a.py" not in listed(workspace, "*")
    assert listed(workspace, "runs/", "!b") == [b"runs/a/x", b"runs/b"]
    assert listed(workspace, "*.pt", "!m.pt") == []


def test_links_and_fifos_are_no_outputs_and_links_are_not_followed(workspace: Workspace) -> None:
    (workspace.files / "runs" / "link").symlink_to("/etc")
    (workspace.files / "runs" / "file").symlink_to("/etc/passwd")
    os.mkfifo(workspace.files / "runs" / "fifo")
    assert listed(workspace, "runs/") == []


def test_a_file_that_a_half_done_transition_brought_is_no_output(workspace: Workspace) -> None:
    tree = make_tree(workspace._store, {b"runs": ADir({b"new": AFile(b"2")})})
    workspace._state = workspace.stage(tree.digest).records.begun  # type: ignore[union-attr]
    write(workspace, "runs/new", b"2")
    assert listed(workspace, "runs/") == []


def test_an_output_is_read_from_an_offset_and_its_digest_is_of_the_whole(
    workspace: Workspace,
) -> None:
    data = os.urandom(PIECE_BYTES + 1000)
    found = write(workspace, "runs/big", data)
    for offset in (0, 1, PIECE_BYTES, PIECE_BYTES + 999, len(data)):
        pieces = list(read_output(workspace, b"runs/big", offset, len(data), found.st_mtime_ns))
        assert b"".join(piece.data for piece in pieces) == data[offset:]
        assert pieces[-1].digest == digest_of(data)


@pytest.mark.parametrize("how", ["grown", "gone", "a link", "a folder", "a fifo"])
def test_an_output_that_is_not_what_was_listed_is_refused(workspace: Workspace, how: str) -> None:
    found = write(workspace, "runs/x")
    place = workspace.files / "runs" / "x"
    if how == "grown":
        place.write_bytes(b"more data")
    else:
        place.unlink()
    match how:
        case "a link":
            place.symlink_to("/etc/passwd")
        case "a folder":
            place.mkdir()
        case "a fifo":
            os.mkfifo(place)
    with pytest.raises(OutputChanged, match="runs/x"):
        list(read_output(workspace, b"runs/x", 0, found.st_size, found.st_mtime_ns))


@pytest.mark.promise(13)
@pytest.mark.parametrize("path", [b"../state.json", b"/etc/passwd", b"", b"a\0", b"runs/../a.py"])
def test_nothing_outside_the_workspace_can_be_read(workspace: Workspace, path: bytes) -> None:
    with pytest.raises(DevloopError):
        list(read_output(workspace, path, 0, 0, 0))
