"""Files that come ahead of their transition: taken over when they fit, and never a danger."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings

from devloop.cafs.beneath import PathEscapes
from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.errors import BlobMismatch, DevloopError, StoreFull
from devloop.cafs.store import DiskStore
from devloop.cafs.tree import File, Node, Symlink, TreeInvalid, encode_node
from devloop.remote_agent.agent import Agent
from devloop.remote_agent.ahead import AheadTwice
from devloop.remote_agent.receive import InvalidUpload, Receiver
from devloop.remote_agent.workspace import Workspace

from .trees import (
    MTIME_NS,
    ADir,
    AFile,
    ALink,
    Thing,
    flat,
    look,
    make_tree,
    projects,
    send,
    send_ahead,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


PROJECT: dict[bytes, Thing] = {
    b"top.py": AFile(b"1", 0o755),
    b"link": ALink(b"top.py"),
    b"pkg": ADir(
        {b"a.py": AFile(b"a", 0o444), b"sub": ADir({b"b": AFile(b""), b"l": ALink(b"b")})}, 0o700
    ),
    b"whole": ADir({b"x": AFile(b"x"), b"y": AFile(b"y", 0o600, 1)}, 0o555),
}


class CountsReads(DiskStore):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[Digest] = []

    def get(self, digest: Digest) -> bytes:
        self.reads.append(digest)
        return super().get(digest)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CountsReads]:
    with CountsReads(tmp_path / "store") as store:
        yield store


@pytest.fixture
def workspace(tmp_path: Path, store: CountsReads) -> Workspace:
    return Workspace(tmp_path / "w", store, "test")


def places(workspace: Workspace) -> list[str]:
    return sorted(os.listdir(workspace.files.parent))


def check_applied(workspace: Workspace, tree: Node, project: Mapping[bytes, Thing]) -> None:
    staged = workspace.stage(tree.digest)
    assert staged.missing == []
    applied = workspace.apply(staged)
    assert look(workspace.files) == flat(project)
    files = [thing for thing in flat(project).values() if isinstance(thing, AFile)]
    assert applied.bytes_written == sum(len(file.data) for file in files)
    assert places(workspace) == ["files", "runs", "staging", "state.json"]
    assert os.listdir(workspace.files.parent / "staging") == []


def test_what_came_ahead_is_not_read_again(workspace: Workspace, store: CountsReads) -> None:
    tree = make_tree(store, PROJECT)
    send_ahead(workspace, PROJECT)
    assert look(workspace.files) == {}
    check_applied(workspace, tree, PROJECT)
    nodes = {tree.digest, *(node.digest for node in _below(tree))}
    assert set(store.reads) == nodes


def _below(node: Node) -> Iterator[Node]:
    for child in node.children.values():
        yield child
        yield from _below(child)


def test_what_did_not_come_ahead_is_staged_as_ever(workspace: Workspace, store: DiskStore) -> None:
    part: dict[bytes, Thing] = {b"pkg": ADir({b"sub": ADir({b"b": AFile(b"")})})}
    send_ahead(workspace, part)
    check_applied(workspace, make_tree(store, PROJECT), PROJECT)


def test_files_ahead_that_the_tree_has_otherwise_are_not_taken(
    workspace: Workspace, store: DiskStore
) -> None:
    others: list[Thing] = [AFile(b"2"), AFile(b"1", mtime_ns=7), ADir({b"f": AFile(b"")})]
    for number, other in enumerate(others):
        project: dict[bytes, Thing] = {b"a": AFile(b"%d" % number), b"d": ADir({b"f": AFile(b"1")})}
        send_ahead(workspace, {**project, b"d": ADir({b"f": other})})
        check_applied(workspace, make_tree(store, project), project)
        check_applied(workspace, make_tree(store, {}), {})


def test_files_ahead_wait_for_blobs_that_are_missing(
    workspace: Workspace, store: CountsReads
) -> None:
    data = b"large" * 100
    project: dict[bytes, Thing] = {**PROJECT, b"large": AFile(data)}
    tree = make_tree(store, project)
    store.delete(digest_of(data))
    send_ahead(workspace, PROJECT)
    assert workspace.stage(tree.digest).missing == [digest_of(data)]
    store.put(digest_of(data), data)
    store.reads.clear()
    check_applied(workspace, tree, project)
    assert digest_of(b"x") not in store.reads


def test_a_folder_that_is_there_keeps_its_outputs(workspace: Workspace, store: DiskStore) -> None:
    (workspace.files / "whole").mkdir()
    (workspace.files / "whole" / "result.pt").write_bytes(b"weights")
    tree = make_tree(store, PROJECT)
    send_ahead(workspace, PROJECT)
    workspace.apply(workspace.stage(tree.digest))
    assert (workspace.files / "whole" / "result.pt").read_bytes() == b"weights"
    assert (workspace.files / "whole" / "x").read_bytes() == b"x"


@settings(max_examples=60, deadline=None)
@given(projects, projects, projects)
def test_whatever_came_ahead_the_tree_is_what_is_applied(
    tmp_path_factory: pytest.TempPathFactory,
    before: dict[bytes, Thing],
    sent: dict[bytes, Thing],
    project: dict[bytes, Thing],
) -> None:
    directory = tmp_path_factory.mktemp("any")
    with DiskStore(directory / "store") as store:
        workspace = Workspace(directory / "w", store, "test")
        workspace.apply(workspace.stage(make_tree(store, before).digest))
        send_ahead(workspace, project if len(sent) % 2 else sent)
        workspace.apply(workspace.stage(make_tree(store, project).digest))
        assert look(workspace.files) == flat(project)
        assert os.listdir(directory / "w" / "staging") == []


def test_a_full_disk_is_left_to_the_transition(
    workspace: Workspace, store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(store, PROJECT)
    real_write = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("devloop.cafs.blobdir.os.write", full)
    assert send_ahead(workspace, PROJECT).is_spoiled
    assert "ahead" not in places(workspace)
    with pytest.raises(StoreFull):
        workspace.stage(tree.digest)
    monkeypatch.setattr("devloop.cafs.blobdir.os.write", real_write)
    check_applied(workspace, tree, PROJECT)


def test_what_a_killed_agent_left_ahead_is_removed(workspace: Workspace, store: DiskStore) -> None:
    send_ahead(workspace, PROJECT)
    assert "ahead" in places(workspace)
    again = Workspace(workspace.files.parent, store, "test")
    assert "ahead" not in places(again)
    check_applied(again, make_tree(store, PROJECT), PROJECT)


@pytest.mark.parametrize("folder", [b"..", b"/etc", b"a/../..", b"a//b", b"a/", b"a\0", b"."])
def test_a_hostile_folder_is_refused(workspace: Workspace, store: DiskStore, folder: bytes) -> None:
    ahead = workspace.ahead.begin()
    assert ahead is not None
    receiver = Receiver(store)
    receiver.ahead = ahead
    with pytest.raises(PathEscapes):
        send(receiver, folder, {b"f": AFile(b"1")})
    assert look(ahead.directory) == {}
    assert sorted(os.listdir(workspace.files.parent.parent)) == ["store", "w"]


@pytest.mark.parametrize("second", [b"d", b"d/f", b"d/f/below"])
def test_one_upload_names_a_path_once(
    workspace: Workspace, store: DiskStore, second: bytes
) -> None:
    receiver = Receiver(store)
    receiver.ahead = workspace.ahead.begin()
    send(receiver, b"d", {b"f": AFile(b"1")})
    with pytest.raises(AheadTwice):
        send(receiver, second, {b"f": AFile(b"1")})


def test_a_path_too_long_to_be_taken_over_is_left_to_the_transition(
    workspace: Workspace, store: DiskStore
) -> None:
    project: dict[bytes, Thing] = {b"f": AFile(b"deep")}
    for _ in range(16):
        project = {b"x" * 240: ADir(project)}
    send_ahead(workspace, project)
    check_applied(workspace, make_tree(store, project), project)


def test_parts_that_make_no_files_are_refused(store: DiskStore) -> None:
    good = File(0o644, 3, MTIME_NS, digest_of(b"abc"))
    for entries, data, error in (
        ({b"f": good}, b"abcd", InvalidUpload),
        ({b"f": good}, b"ab", InvalidUpload),
        ({b"f": good, b"g": good}, b"abcabd", BlobMismatch),
        ({b"f": Symlink(b"abc")}, b"abc", InvalidUpload),
        ({b"f": File(0o644, 65_537, 0, digest_of(bytes(65_537)))}, bytes(65_537), BlobMismatch),
    ):
        with Receiver(store) as receiver, pytest.raises(error):
            receiver.files(b"", encode_node(entries), data, zstd=False)
    with Receiver(store) as receiver, pytest.raises(TreeInvalid):
        receiver.files(b"", b"nothing", b"", zstd=False)
    assert list(store) == []


# ---------------------------------------------------------------- uploads of a project


@pytest.fixture
async def agent(tmp_path: Path) -> Iterator[Agent]:  # type: ignore[misc] # a fixture that waits
    async with Agent(tmp_path / "state") as agent:
        yield agent


async def test_one_upload_at_a_time_is_staged_ahead(agent: Agent) -> None:
    project = agent.project("p", "p")
    async with agent.staging_ahead(project) as first:
        assert first is not None
        async with agent.staging_ahead(project) as second:
            assert second is None
    async with agent.staging_ahead(project) as third:
        assert third is not None


async def test_an_upload_that_fails_leaves_nothing(agent: Agent) -> None:
    project = agent.project("p", "p")

    async def broken_off() -> None:
        async with agent.staging_ahead(project) as ahead:
            assert ahead is not None
            ahead.add(b"d", [(b"f", File(0o644, 1, 0, digest_of(b"1")), b"1")])
            raise DevloopError("broken off")

    with pytest.raises(DevloopError, match="broken off"):
        await broken_off()
    assert "ahead" not in places(project.workspace)


async def test_what_no_transition_takes_over_is_dropped(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devloop.remote_agent.agent.AHEAD_KEPT_S", 0.01)
    project = agent.project("p", "p")
    async with agent.staging_ahead(project) as ahead:
        assert ahead is not None
    async with asyncio.timeout(10):
        while "ahead" in places(project.workspace):
            await asyncio.sleep(0.01)
