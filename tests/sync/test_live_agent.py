"""Calls of the screen against a real embedded agent: metrics, a run that is kept, what runs ran."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import psutil
import pytest

from devloop.cafs.digest import digest_of
from devloop.sync.agent_errors import AgentGone, RemoteError
from devloop.sync.codediff import CodeGone, diff_of_code
from devloop.sync.local import LocalTarget
from devloop.sync.metrics import GpuState, Warmth
from devloop.sync.model import RunSpec
from devloop.sync.session import Project, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from devloop.cafs.digest import Digest
    from devloop.sync.client import AgentClient


@contextlib.asynccontextmanager
async def opened(project: Path) -> AsyncIterator[Session]:
    session = await Session.open(Project(project), LocalTarget(60))
    try:
        yield session
    finally:
        await session.client.shutdown(stop_runs=True)
        await session.connection.target.wait_until_ended()
        await session.close()


async def test_samples_of_the_host_and_its_gpus_come_until_the_reader_goes(project: Path) -> None:
    async with opened(project) as session:
        seen = []
        async with contextlib.aclosing(session.client.metrics(0.1)) as samples:
            async for sample in samples:
                seen.append(sample)
                if len(seen) == 3:
                    break
        times_ns = [sample.time_ns for sample in seen]
        assert times_ns == sorted(set(times_ns))
        last = seen[-1]
        assert 0 < last.host.memory_used_bytes < last.host.memory_total_bytes
        assert 0 < last.host.disk_used_bytes <= last.host.disk_total_bytes
        assert 0 <= last.host.cpu_percent <= 100
        assert last.gpu_state in GpuState
        assert bool(last.gpus) == (last.gpu_state is GpuState.OK)
        assert last.gpu_state is GpuState.OK or last.gpu_detail


async def test_an_interval_that_the_agent_refuses_is_said(project: Path) -> None:
    async with opened(project) as session:
        with pytest.raises(RemoteError, match=r"0\.1 to 60"):
            await anext(session.client.metrics(1000.0))


async def test_whatever_is_asked_over_a_closed_connection_the_agent_is_gone(project: Path) -> None:
    async with opened(project) as session:
        client = (await LocalTarget(60).connect())[0]
        await client.close()
        with pytest.raises(AgentGone):
            await anext(client.metrics(1.0))
        with pytest.raises(AgentGone):
            await client.hello()
        with pytest.raises(AgentGone):
            await client.put(iter(()))
        with pytest.raises(AgentGone):
            async with client.attach_to_owner(session.workspace, session.owner):
                pass


async def test_a_run_that_is_kept_outlives_its_lease_and_its_client(project: Path) -> None:
    async with opened(project) as session:
        (kept, left) = [await start(session) for _ in range(2)]
        client, workspace = session.client, session.workspace
        async with client.attach_to_owner(workspace, session.owner):
            await client.hello()
            await client.keep_run(workspace.id, kept)
        while (await states(session))[left]:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.6)  # twice the lease: what is to be shown is that nothing happens
        assert (await states(session))[kept]


async def tree_of(session: Session) -> Digest:
    await session.scan()
    return (await session.push()).tree


async def test_the_code_of_two_runs_is_told_apart_line_by_line(project: Path) -> None:
    (project / "pkg").mkdir()
    (project / "pkg" / "model.py").write_text("lr = 1\nwidth = 8\n")
    (project / "same.py").write_text("same\n")
    (project / "kind").write_text("a file\n")
    async with opened(project) as session:
        old = await tree_of(session)
        (project / "pkg" / "model.py").write_text("lr = 2\nwidth = 8\n")
        (project / "kind").unlink()
        (project / "kind").mkdir()
        (project / "kind" / "new.py").write_text("new\n")
        (project / "weights.bin").write_bytes(b"\0" * 100)
        new = await tree_of(session)
        assert await diff_of_code(session.client, old, old) == []
        assert await diff_of_code(session.client, old, new) == [
            *("--- a/kind", "+++ /dev/null", "@@ -1 +0,0 @@", "-a file"),
            *("--- /dev/null", "+++ b/kind/new.py", "@@ -0,0 +1 @@", "+new"),
            *("--- a/pkg/model.py", "+++ b/pkg/model.py", "@@ -1,2 +1,2 @@"),
            *("-lr = 1", "+lr = 2", " width = 8"),
            *("--- /dev/null", "+++ b/weights.bin", "no text, too large, or no longer there"),
        ]
        back = await diff_of_code(session.client, new, old)
        assert "+lr = 1" in back
        with pytest.raises(CodeGone):
            await diff_of_code(session.client, old, digest_of(b"never pushed"))


async def test_blobs_of_more_than_one_reply_are_all_read(project: Path) -> None:
    contents = {f"f{at}": os.urandom(900_000) for at in range(6)}
    for name, data in contents.items():
        (project / name).write_bytes(data)
    (project / "large").write_bytes(b"x" * (1 << 21))
    async with opened(project) as session:
        await tree_of(session)
        wanted = [digest_of(data) for data in contents.values()]
        absent = [digest_of(b"absent"), digest_of(b"x" * (1 << 21))]
        found = await session.client.read_blobs([*absent, *wanted])
        assert found == {digest_of(data): data for data in contents.values()}


async def test_samples_tell_how_warm_a_workspace_is(project: Path) -> None:
    (project / "main.py").write_text("print('once')\n")
    async with opened(project) as session:
        await session.scan()
        while await start_kind(session) != "zygote":
            pass
        client, workspace_id = session.client, session.workspace.id
        assert await warmth(client, workspace_id) == Warmth(zygotes=1, loading=0)
        assert await warmth(client, "") is None
        assert await warmth(client, "never-seen") is None
        await client.cool(workspace_id)
        assert await warmth(client, workspace_id) == Warmth(zygotes=0, loading=0)


async def warmth(client: AgentClient, workspace_id: str) -> Warmth | None:
    async with contextlib.aclosing(client.metrics(60.0, workspace_id)) as samples:
        return (await anext(samples)).warmth


async def test_what_is_to_be_cold_has_no_zygote_left(project: Path) -> None:
    (project / "main.py").write_text("print('once')\n")
    async with opened(project) as session:
        await session.scan()
        while await start_kind(session) != "zygote":
            pass
        before = zygotes(session)
        assert before
        await session.client.cool(session.workspace.id)
        while zygotes(session) & before:
            await asyncio.sleep(0.01)
        while await start_kind(session) != "zygote":
            pass
        assert zygotes(session)


def zygotes(session: Session) -> set[int]:
    children = psutil.Process(session.facts.agent_pid).children(recursive=True)
    return {child.pid for child in children if "devloop-zygote" in words_of(child)}


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


async def start_kind(session: Session) -> str:
    """Of one run, to its end."""
    env = {"PATH": os.environb[b"PATH"]}
    spec = RunSpec((b"python3", b"main.py"), env, lease_s=5.0, warm=True, owner=session.owner)
    pushed = await session.push(run=spec)
    assert pushed.applied.run is not None
    while True:
        runs = {run.number: run for run in await session.client.list_runs(session.workspace.id)}
        if not (run := runs[pushed.applied.run.number]).live:
            return run.start_kind
        await asyncio.sleep(0.01)


async def start(session: Session) -> int:
    spec = RunSpec((b"sleep", b"60"), {"PATH": os.environb[b"PATH"]}, lease_s=0.3, warm=False)
    pushed = await session.push(run=spec._replace(owner=session.owner))
    assert pushed.applied.run is not None
    return pushed.applied.run.number


async def states(session: Session) -> dict[int, bool]:
    """Whether each run lives."""
    return {run.number: run.live for run in await session.client.list_runs(session.workspace.id)}
