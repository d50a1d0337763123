"""Pushing a project to a real agent, over its socket."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import threading
import time
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.dirs import state_dir
from devloop.cafs.store import DiskStore
from devloop.sync import hashing
from devloop.sync.local import LocalTarget
from devloop.sync.model import RunSpec
from devloop.sync.push import NotConverging, SourcesChanged
from devloop.sync.session import NeverQuiet, Project, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
async def session(project: Path) -> AsyncIterator[Session]:
    """A session with an agent of its own, which ends with it."""
    (project / "a.py").write_text("print(1)\n")
    session = await Session.open(Project(project), LocalTarget(60))
    yield session
    await session.client.shutdown(stop_runs=True)
    await session.close()


def box(session: Session) -> Path:
    return state_dir() / "workspaces" / session.workspace.id / "files"


async def save(session: Session, path: str, data: bytes) -> None:
    place = session.project.root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    await session.scan()


def assert_same(session: Session) -> None:
    here = {path.relative_to(session.project.root) for path in session.project.root.rglob("*")}
    there = {path.relative_to(box(session)) for path in box(session).rglob("*")}
    assert here == there
    for path in here:
        ours, theirs = session.project.root / path, box(session) / path
        if ours.is_file():
            assert ours.read_bytes() == theirs.read_bytes()
            assert ours.stat().st_mtime_ns == theirs.stat().st_mtime_ns


def settle(path: Path) -> None:
    """Waits until the digest that a scan finds now is certain, so that it is saved."""
    written_ns = path.stat().st_ctime_ns
    while hashing.is_racy(written_ns, time.time_ns()):
        threading.Event().wait(0.002)


async def test_the_first_push_sends_everything_and_the_next_only_what_changed(
    session: Session,
) -> None:
    for number in range(300):
        path = session.project.root / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d" % number)
    await session.scan()
    pushed = await session.push()
    assert_same(session)
    assert pushed.blobs_sent == 301 + 8 + 1  # the root as the first scan saw it went ahead
    assert (await session.push()).blobs_sent == 0
    await save(session, "d0/f0", b"changed")
    pushed = await session.push()
    assert pushed.blobs_sent == 3  # the file, its directory, the root
    assert pushed.applied.files_written == 1
    assert_same(session)


async def test_blobs_that_the_agent_lost_are_sent_again(session: Session) -> None:
    for number in range(40):
        await save(session, f"d{number}/f", b"%d" % number)
    await session.push()
    with DiskStore(state_dir() / "store") as store:
        for number, digest in enumerate(list(store)):
            if number % 2:
                store.delete(digest)
            else:
                store.path_of(digest).chmod(0o600)
                store.path_of(digest).write_bytes(b"torn")
    shutil.rmtree(box(session))
    session.pusher.known = None
    await session.push()
    assert_same(session)


async def test_a_file_that_changes_during_the_push_is_scanned_again(session: Session) -> None:
    await session.pusher.close()  # nothing goes ahead
    path = session.project.root / "a.py"
    path.write_text("print(22)\n")  # since the scan
    assert session.last_scan is not None
    with pytest.raises(SourcesChanged, match=r"a\.py changed") as changed:
        await session.pusher.push(session.last_scan.tree)
    assert changed.value.dirs == {b""}
    await session.push()
    assert_same(session)


async def test_a_file_that_never_rests_is_named(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.pusher.close()  # nothing goes ahead
    monkeypatch.setattr("devloop.sync.session.MAX_RESCANS", 3)
    path = session.project.root / "a.py"
    real_open = session.pusher._open
    digits = itertools.cycle("23456789")

    def changing(name: bytes) -> object:
        path.write_text(f"print({next(digits)})\n")
        return real_open(name)

    monkeypatch.setattr(session.pusher, "_open", changing)
    with pytest.raises(NeverQuiet, match=r"a\.py changed while it was uploaded"):
        await session.push()
    assert not box(session).exists() or list(box(session).iterdir()) == []


async def test_an_agent_that_keeps_nothing_is_not_sent_to_forever(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.pusher.close()  # nothing goes ahead

    async def nowhere(frames: object) -> None:
        return

    monkeypatch.setattr(session.client, "put", nowhere)
    with pytest.raises(NotConverging):
        await session.push()


async def test_a_directory_whose_node_is_larger_than_a_message_part_is_pushed(
    session: Session,
) -> None:
    folder = session.project.root / "many"
    folder.mkdir()
    for number in range(12_000):
        (folder / f"{number:05d}-{'long' * 12}").touch()
    scan = await session.scan()
    assert len(scan.tree.children[b"many"].encoded) > MIB
    pushed = await session.push()
    assert pushed.applied.files_written == 12_001
    (folder / "one-more").write_bytes(b"1")
    await session.scan()
    assert (await session.push()).applied.files_written == 1
    assert len(os.listdir(box(session) / "many")) == 12_001


async def test_a_large_file_is_pushed_whole_and_then_by_its_changes(session: Session) -> None:
    data = bytearray(random.Random(1).randbytes(24 * MIB))
    await save(session, "weights.bin", bytes(data))
    session.pusher.compress = True
    session.pusher.workspace = session.workspace._replace(local_root=b"")  # as of another machine
    assert (await session.push()).bytes_sent >= 24 * MIB
    data[12 * MIB] ^= 1
    await save(session, "weights.bin", bytes(data))
    pushed = await session.push()
    assert pushed.bytes_sent < 4 * MIB
    assert_same(session)


async def test_a_later_session_sends_a_large_file_by_its_changes_too(session: Session) -> None:
    data = bytearray(random.Random(1).randbytes(24 * MIB))
    path = session.project.root / "weights.bin"
    await save(session, "weights.bin", bytes(data))
    settle(path)
    await session.scan()
    await session.push()
    session.scanner.save()
    data[12 * MIB] ^= 1
    path.write_bytes(bytes(data))
    later = await Session.open(session.project, LocalTarget(60))
    try:
        later.pusher.workspace = later.workspace._replace(local_root=b"")  # as of another machine
        assert (await later.push()).bytes_sent < 4 * MIB
        assert_same(later)
    finally:
        await later.close()


async def test_an_agent_on_this_machine_reads_large_files_itself(session: Session) -> None:
    data = random.Random(1).randbytes(24 * MIB)
    for version in (data, data[1:]):
        await save(session, "weights.bin", version)
        assert (await session.push()).bytes_sent < MIB
        assert_same(session)


async def test_a_large_file_that_changes_before_the_agent_reads_it_is_scanned_again(
    session: Session,
) -> None:
    await save(session, "weights.bin", bytes(9 * MIB))
    path = session.project.root / "weights.bin"
    scan = await session.scan()
    path.write_bytes(b"x" * 9 * MIB)
    with pytest.raises(SourcesChanged, match=r"weights\.bin changed"):
        await session.pusher.push(scan.tree)
    path.write_bytes(b"shorter")
    with pytest.raises(SourcesChanged, match=r"weights\.bin changed"):
        await session.pusher.push(scan.tree)
    await session.scan()
    await session.push()
    assert_same(session)


async def test_a_pushed_run_reports_its_number_and_tree(session: Session) -> None:
    spec = RunSpec(argv=(b"true",), env={"PATH": b"/usr/bin:/bin"}, env_is_whole=True)
    pushed = await session.push(run=spec)
    assert pushed.applied.run is not None
    assert (pushed.applied.run.number, pushed.applied.run.tree) == (1, pushed.tree)
