"""Calls of the screen against a real embedded agent: metrics, and a run that is kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from devloop.sync.agent_errors import RemoteError
from devloop.sync.local import LocalTarget
from devloop.sync.metrics import GpuState
from devloop.sync.model import RunSpec
from devloop.sync.session import Project, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


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


async def start(session: Session) -> int:
    spec = RunSpec((b"sleep", b"60"), {"PATH": os.environb[b"PATH"]}, lease_s=0.3, warm=False)
    pushed = await session.push(run=spec._replace(owner=session.owner))
    assert pushed.applied.run is not None
    return pushed.applied.run.number


async def states(session: Session) -> dict[int, bool]:
    """Whether each run lives."""
    return {run.number: run.live for run in await session.client.list_runs(session.workspace.id)}
