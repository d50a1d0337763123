"""Promise 21: sync never destroys a file that it did not make."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.dirs import state_dir
from devloop.cafs.store import DiskStore
from devloop.sync.events import Notice, RunStarted
from devloop.sync.local import LocalTarget
from devloop.sync.loop import Loop, LoopConfig
from devloop.sync.model import RunSpec
from devloop.sync.plan import OnSave
from devloop.sync.session import Project, Session

from ..remote_agent.test_workspace_machine import Box, Killed, killed_after  # noqa: TID252
from ..remote_agent.trees import ADir, AFile, ALink  # noqa: TID252

if TYPE_CHECKING:
    from pathlib import Path

    from devloop.sync.events import SessionEvent

    from ..remote_agent.trees import Thing  # noqa: TID252

ROUNDS = 3000 if os.environ.get("DEVLOOP_SOAK") == "1" else 150
PATHS = [b"a", b"b", b"a/b", b"a/c/d", b"out/x", b"a/m.py", b"b/m.py", b"c"]


@pytest.mark.promise(21)
def test_promise_21_what_runs_write_outlives_every_transition_and_kill(tmp_path: Path) -> None:
    rng = random.Random(21)
    kills = 0
    with DiskStore(tmp_path / "store") as store:
        box = Box(tmp_path, store)
        for _ in range(ROUNDS):
            for path in rng.sample(PATHS, k=rng.randrange(4)):
                box.write(path)
            project = _project(rng, 0)
            try:
                with killed_after(rng.choice([10**6, rng.randrange(30)])):
                    box.reopened()
                    box.follow(project, repair=rng.random() < 0.2)
            except Killed:
                kills += 1
                box.reopened()
                box.follow(project)
            assert box.written <= box.kept()
        print(f"{ROUNDS} transitions, {kills} kills, {len(box.written)} files of runs: 0 lost")


def _project(rng: random.Random, depth: int) -> dict[bytes, Thing]:
    return {name: _thing(rng, depth) for name in (b"a", b"b", b"c", b"m.py") if rng.random() < 0.7}


def _thing(rng: random.Random, depth: int) -> Thing:
    kind = rng.randrange(3)
    if kind == 0 and depth < 3:
        return ADir(_project(rng, depth + 1))
    if kind == 1:
        return ALink(rng.choice([b"a", b"..", b"nowhere"]))
    return AFile(b"%d" % rng.randrange(5), mtime_ns=rng.randrange(5))


@pytest.mark.promise(21)
@pytest.mark.parametrize("how", ["emptied", "gone"])
async def test_promise_21_a_project_that_is_emptied_or_unmounted_deletes_nothing_on_the_box(
    project: Path, how: str
) -> None:
    for name in ("a.py", "b.py"):
        (project / name).write_text(name)
    session = await Session.open(Project(project), LocalTarget(60))
    loop = Loop(session, LoopConfig(_spec, OnSave.RESTART, signal.SIGHUP, 0.01))
    running = asyncio.create_task(loop.run())
    box = state_dir() / "workspaces" / session.workspace.id / "files"
    try:
        async with asyncio.timeout(20):
            await _event(loop, RunStarted)
            if how == "gone":
                shutil.move(project, project.parent / "moved")
            else:
                for path in project.iterdir():
                    path.unlink()
            await _event(loop, Notice)
        assert sorted(os.listdir(box)) == ["a.py", "b.py"]
    finally:
        loop.leave()
        await running
        await session.client.shutdown(stop_runs=True)
        await session.close()
    print(f"1 project {how} under `up`: 0 files deleted on the box")


def _spec(reason: str) -> RunSpec:
    return RunSpec((b"sleep", b"60"), {"PATH": b"/usr/bin:/bin"}, env_is_whole=True, reason=reason)


async def _event(loop: Loop, kind: type[SessionEvent]) -> None:
    while not isinstance(await loop.events.get(), kind):
        pass
