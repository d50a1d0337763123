"""What a scan reads is sent while it goes on, by a session with a real agent."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.dirs import state_dir
from devloop.cafs.tree import Dir, File, walk_tree
from devloop.sync import ahead as ahead_module
from devloop.sync.ahead import Ahead
from devloop.sync.client import AgentClient
from devloop.sync.local import LocalTarget
from devloop.sync.session import Project, Session, make_scanner, workspace_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from devloop.cafs.digest import Digest
    from devloop.sync.ahead import AheadFrame
    from devloop.sync.walk import Known

KIB = 1 << 10


@pytest.fixture
async def agent(project: Path) -> AsyncIterator[Session]:
    """A session of another project, so that the agent is there, and ends with the test."""
    other = project.parent / "other"
    other.mkdir()
    session = await Session.open(Project(other), LocalTarget(60))
    yield session
    await session.client.shutdown(stop_runs=True)
    await session.close()


def fill(root: Path) -> None:
    for number in range(60):
        path = root / f"d{number % 7}" / f"sub{number % 2}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 3000)
    (root / "empty").touch()
    (root / "large").write_bytes(os.urandom(200 * KIB))
    (root / "link").symlink_to("empty")
    (root / "d0" / "f0").write_bytes(b"0" * 64 * KIB)
    (root / "d0" / "f0").chmod(0o755)


def box(session: Session) -> Path:
    return state_dir() / "workspaces" / session.workspace.id / "files"


def listing(root: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        is_file = path.is_file() and not path.is_symlink()
        data = path.read_bytes() if is_file else b""
        time_ns = status.st_mtime_ns if is_file else 0
        found[str(path.relative_to(root))] = (status.st_mode, time_ns, data)
    return found


async def test_a_first_push_is_one_transition_and_sends_each_blob_once(
    project: Path, agent: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(project)
    calls = []
    real = AgentClient.apply

    async def apply(self: AgentClient, *args: object, **options: object) -> object:
        calls.append(args)
        return await real(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(AgentClient, "apply", apply)
    session = await Session.open(Project(project), LocalTarget(60))
    pushed = await session.push()
    assert listing(box(session)) == listing(project)
    assert len(calls) == 1
    assert pushed.blobs_sent == len(_digests(session))
    assert not (box(session).parent / "ahead").exists()
    await session.close()


def _digests(session: Session) -> set[Digest]:
    assert session.last_scan is not None
    tree = session.last_scan.tree
    entries = [entry for _, entry in walk_tree(tree)]
    return {tree.digest} | {e.digest for e in entries if isinstance(e, File | Dir)}


async def test_what_another_project_has_sent_is_not_sent_again(
    project: Path, agent: Session
) -> None:
    fill(project)
    first = await Session.open(Project(project), LocalTarget(60))
    await first.push()
    await first.close()
    twin = project.parent / "twin"
    shutil.copytree(project, twin, symlinks=True)
    second = await Session.open(Project(twin), LocalTarget(60))
    pushed = await second.push()
    assert pushed.blobs_sent == 0
    assert listing(box(second)) == listing(twin)
    await second.close()


async def test_nothing_is_sent_ahead_of_a_command_that_has_nothing_to_sync(
    project: Path, agent: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(project)
    os.utime(project / "large")
    first = await Session.open(Project(project), LocalTarget(60))
    while any(known.inode < 0 for known in _known(first)):
        await first.scan()  # files that are as young as the clock's tick are read again
    await first.push()
    await first.close()
    calls = []
    monkeypatch.setattr(AgentClient, "missing", lambda *args: calls.append(args))
    monkeypatch.setattr(AgentClient, "put_ahead", lambda *args: calls.append(args))
    second = await Session.open(Project(project), LocalTarget(60))
    assert (await second.push()).blobs_sent == 0
    assert calls == []
    await second.close()


def _known(session: Session) -> list[Known]:
    found: list[Known] = []
    todo = [session.scanner._top]
    while todo:
        state = todo.pop()
        assert state is not None
        found += state.files.values()
        todo += state.dirs.values()
    return found


async def test_what_must_not_wait_is_read_again(
    project: Path, agent: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(project)
    monkeypatch.setattr(ahead_module, "WAITING_BYTES", 100 * KIB)
    session = await Session.open(Project(project), LocalTarget(60))
    await session.push()
    assert listing(box(session)) == listing(project)
    await session.close()


async def test_an_agent_that_refuses_what_goes_ahead_is_sent_it_later(
    project: Path, agent: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(project)
    real = Ahead._frame

    async def damaged(self: Ahead, *args: object) -> AheadFrame:
        frame = await real(self, *args)  # type: ignore[arg-type]
        return frame._replace(files=[f._replace(data=f.data + b"x") for f in frame.files])

    monkeypatch.setattr(Ahead, "_frame", damaged)
    session = await Session.open(Project(project), LocalTarget(60))
    await session.push()
    assert listing(box(session)) == listing(project)
    assert not (box(session).parent / "ahead").exists()
    await session.close()


async def test_a_client_that_goes_away_amid_an_upload_leaves_nothing(
    project: Path, agent: Session
) -> None:
    fill(project)
    workspace = workspace_of(project, is_local=True)
    ahead = Ahead()
    scanner = make_scanner(Project(project), workspace)
    await asyncio.to_thread(scanner.scan, ahead)  # which does not say that it has ended
    ahead._pass_on(ahead._batch)
    upload = asyncio.create_task(ahead.upload(agent.client, workspace, compress=True))
    place = state_dir() / "workspaces" / workspace.id / "ahead"
    async with asyncio.timeout(10):
        while not place.exists() or not any(place.iterdir()):
            await asyncio.sleep(0.005)
    upload.cancel()
    async with asyncio.timeout(10):
        while place.exists():
            await asyncio.sleep(0.005)
    assert os.listdir(place.parent / "files") == []
