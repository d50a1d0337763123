"""Samples of what the host and its GPUs do, for any number of subscribers.

Owns the one GPU reader, which runs while somebody is subscribed. Knows no protocol and no run.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from .bell import Bell
from .gpu import NOT_YET_ASKED, Gpu, GpuReader, GpuSnapshot, GpuState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

__all__ = ["Gpu", "GpuState", "HostMetrics", "HostSampler", "Metrics", "Sample"]

FIRST_GPU_ANSWER_S = 0.5


@dataclass(frozen=True, slots=True)
class HostMetrics:
    cpu_percent: float  # of all cores, 0 to 100, since the sampler's previous sample
    memory_used_bytes: int
    memory_total_bytes: int
    disk_used_bytes: int
    disk_total_bytes: int
    load_1m: float
    net_received_bytes: int  # since boot
    net_sent_bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    time_ns: int
    host: HostMetrics
    gpu_state: GpuState
    gpu_detail: str
    gpus: tuple[Gpu, ...]


class HostSampler:
    """CPU use is measured from one sample to the next: every subscriber has its own sampler."""

    def __init__(self, disk_path: Path) -> None:
        """`disk_path` lies on the file system to report; it need not exist yet."""
        self._disk_path = disk_path
        self._busy_s, self._all_s = _cpu_seconds()

    def sample(self) -> HostMetrics:
        memory = psutil.virtual_memory()
        disk_used, disk_total = _disk_bytes(self._disk_path)
        net = psutil.net_io_counters()
        return HostMetrics(
            cpu_percent=self._cpu_percent(),
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            disk_used_bytes=disk_used,
            disk_total_bytes=disk_total,
            load_1m=os.getloadavg()[0],
            net_received_bytes=net.bytes_recv if net else 0,
            net_sent_bytes=net.bytes_sent if net else 0,
        )

    def _cpu_percent(self) -> float:
        busy_s, all_s = _cpu_seconds()
        busy, passed = busy_s - self._busy_s, all_s - self._all_s
        self._busy_s, self._all_s = busy_s, all_s
        return min(max(100 * busy / passed, 0.0), 100.0) if passed > 0 else 0.0


def _cpu_seconds() -> tuple[float, float]:
    """Busy and all, summed over the cores. Guests' time is already in user time."""
    times = psutil.cpu_times()
    fields = times._asdict()
    all_s = sum(fields.values()) - fields.get("guest", 0) - fields.get("guest_nice", 0)
    return all_s - times.idle - fields.get("iowait", 0), all_s


def _disk_bytes(path: Path) -> tuple[int, int]:
    for place in (path, *path.parents):
        try:
            usage = psutil.disk_usage(str(place))
        except OSError:
            continue
        return usage.used, usage.total
    return 0, 0


class Metrics:
    """`gpu` is asked only while there are subscribers, as often as the most eager one wants."""

    def __init__(self, disk_path: Path, *, gpu: GpuReader | None = None) -> None:
        self._disk_path = disk_path
        self._gpu = gpu or GpuReader()
        self._intervals: list[float] = []
        self._snapshot = NOT_YET_ASKED
        self._news = Bell()  # the GPUs' state is another one
        self._more_eager = Bell()
        self._watch: asyncio.Task[None] | None = None

    async def subscribe(self, interval_s: float = 1.0) -> AsyncGenerator[Sample, None]:
        """A sample now, one every `interval_s`, and one when the state of the GPUs changes.

        Close the generator (`contextlib.aclosing`): the GPU process ends with the last one.
        """
        sampler = HostSampler(self._disk_path)
        self._enter(interval_s)
        seen, timeout_s = NOT_YET_ASKED, FIRST_GPU_ANSWER_S
        try:
            while True:
                await self._wait_for_news(seen, timeout_s)
                seen, timeout_s = self._snapshot, interval_s
                host = sampler.sample()
                yield Sample(time.time_ns(), host, seen.state, seen.detail, seen.gpus)
        finally:
            await self._leave(interval_s)

    async def _wait_for_news(self, seen: GpuSnapshot, timeout_s: float) -> None:
        if _is_news(seen, self._snapshot):
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            pass

    def _enter(self, interval_s: float) -> None:
        self._intervals.append(interval_s)
        self._more_eager.ring()
        if self._watch is None or self._watch.done() or self._watch.cancelling():
            self._watch = asyncio.create_task(self._watch_gpus(self._watch))

    async def _leave(self, interval_s: float) -> None:
        self._intervals.remove(interval_s)
        if self._intervals or self._watch is None:
            return
        watch = self._watch
        self._snapshot = NOT_YET_ASKED
        watch.cancel()
        await asyncio.wait({watch})
        if not watch.cancelled():
            watch.result()

    async def _watch_gpus(self, predecessor: asyncio.Task[None] | None) -> None:
        if predecessor is not None:  # it may not have let go of the reader yet
            await asyncio.wait({predecessor})
        try:
            while True:
                snapshot = await self._gpu.read()
                before, self._snapshot = self._snapshot, snapshot
                if _is_news(before, snapshot):
                    self._news.ring()
                await self._until_next_reading()
        finally:
            await self._gpu.close()

    async def _until_next_reading(self) -> None:
        try:
            async with asyncio.timeout(min(self._intervals)):
                await self._more_eager.wait()
        except TimeoutError:
            pass


def _is_news(before: GpuSnapshot, after: GpuSnapshot) -> bool:
    first_answer = before is NOT_YET_ASKED and after is not NOT_YET_ASKED
    return first_answer or before.state is not after.state
