"""Host metrics, and subscriptions on a machine without a GPU."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from itertools import pairwise
from typing import TYPE_CHECKING

import psutil
import pytest

from devloop.remote_agent.gpu import GpuState
from devloop.remote_agent.metrics import HostSampler, Metrics

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no library stands before a real driver, should there be one."""
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))


def test_the_host_s_figures_are_those_of_the_kernel(tmp_path: Path) -> None:
    host = HostSampler(tmp_path).sample()
    assert host.memory_total_bytes == psutil.virtual_memory().total
    assert 0 < host.memory_used_bytes < host.memory_total_bytes
    assert host.disk_total_bytes == psutil.disk_usage(str(tmp_path)).total
    assert host.load_1m >= 0


def test_cpu_use_is_measured_since_the_sampler_s_last_sample(tmp_path: Path) -> None:
    sampler = HostSampler(tmp_path)
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    busy_percent = sampler.sample().cpu_percent
    assert 50 / (psutil.cpu_count() or 1) < busy_percent <= 100


def test_a_disk_path_that_does_not_exist_yet_is_on_its_parent_s_disk(tmp_path: Path) -> None:
    host = HostSampler(tmp_path / "not" / "there").sample()
    assert host.disk_total_bytes == psutil.disk_usage(str(tmp_path)).total


async def test_a_machine_without_gpus_has_host_metrics(tmp_path: Path) -> None:
    async with aclosing(Metrics(tmp_path).subscribe(0.01)) as samples:
        while (sample := await anext(samples)).gpu_state is not GpuState.NONE:
            pass
    assert sample.gpu_detail == "no driver"
    assert sample.gpus == ()
    assert sample.host.memory_total_bytes > 0


async def test_samples_come_at_the_interval_asked_for(tmp_path: Path) -> None:
    async with aclosing(Metrics(tmp_path).subscribe(0.1)) as samples:
        while (await anext(samples)).gpu_state is not GpuState.NONE:
            pass
        times_ns = [(await anext(samples)).time_ns for _ in range(4)]
    steps_s = [(late - early) / 1e9 for early, late in pairwise(times_ns)]
    assert min(steps_s) >= 0.09


async def test_a_subscriber_that_is_cancelled_takes_its_process_along(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)

    async def follow() -> None:
        async with aclosing(metrics.subscribe(0.01)) as samples:
            async for _ in samples:
                started.set()

    started = asyncio.Event()
    following = asyncio.create_task(follow())
    await started.wait()
    following.cancel()
    await asyncio.wait({following})
    living = [c for c in psutil.Process().children() if c.status() != psutil.STATUS_ZOMBIE]
    assert not [child for child in living if "nvml" in str(child.cmdline())]
