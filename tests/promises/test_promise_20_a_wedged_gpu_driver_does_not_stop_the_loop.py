"""Promise 20: a wedged GPU driver does not stop the loop.

A real driver library whose first call never returns; "unavailable" must be told within 3 s, while
everything else goes on.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from devloop.remote_agent.gpu import GpuState
from devloop.remote_agent.metrics import Metrics, Sample

SOURCE = Path(__file__).parents[1] / "remote_agent" / "fake_nvml.c"

pytestmark = [
    pytest.mark.promise(20),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]


@pytest.fixture
def wedged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The driver hangs as long as this file exists."""
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", library, SOURCE], check=True)
    wedged = tmp_path / "wedged"
    wedged.touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("FAKE_NVML_WEDGED", str(wedged))
    return wedged


async def until(state: GpuState, detail: str, metrics: Metrics) -> Sample:
    async with aclosing(metrics.subscribe(0.1)) as samples:
        async for sample in samples:
            if sample.gpu_state is state and detail in sample.gpu_detail:
                return sample
    raise AssertionError("samples ended")


async def late_s(stop: asyncio.Event) -> list[float]:
    """How late the event loop woke a sleeper, each time."""
    late: list[float] = []
    while not stop.is_set():
        before = time.monotonic()
        await asyncio.sleep(0.005)
        late.append(time.monotonic() - before - 0.005)
    return late


async def test_a_driver_that_never_returns_is_unavailable_within_3_s(
    wedged: Path, tmp_path: Path
) -> None:
    stop = asyncio.Event()
    watching = asyncio.create_task(late_s(stop))
    before = time.monotonic()
    sample = await until(GpuState.UNAVAILABLE, "has not answered", Metrics(tmp_path))
    took_s = time.monotonic() - before
    stop.set()
    late = sorted(await watching)
    print(f"1 try: unavailable after {took_s:.2f} s; {sample.gpu_detail}")
    print(f"{len(late)} wake-ups meanwhile, p99 {1000 * late[len(late) * 99 // 100]:.1f} ms late")
    assert took_s < 3
    assert sample.host.memory_total_bytes > 0
    assert late[len(late) * 99 // 100] < 0.1


async def test_host_metrics_keep_coming_and_nothing_is_left(wedged: Path, tmp_path: Path) -> None:
    others = psutil.Process().children()
    before = time.monotonic()
    async with aclosing(Metrics(tmp_path).subscribe(0.1)) as samples:
        for _ in range(10):
            await anext(samples)
    took_s = time.monotonic() - before
    print(f"10 samples in {took_s:.2f} s beside a wedged driver")
    assert took_s < 3
    assert [child for child in psutil.Process().children() if child not in others] == []
