"""GpuReader through a real process and a real (small, fake) driver library."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from devloop.remote_agent.gpu import GpuReader, GpuState, decode_snapshot
from devloop.remote_agent.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
SOURCE = Path(__file__).with_name("fake_nvml.c")

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def library_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("driver")
    output = directory / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", output, SOURCE], check=True)
    return directory


@pytest.fixture
def driver(library_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory: a file `wedged` or `lost` in it makes the driver so."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library_dir))
    for name in ("wedged", "lost"):
        monkeypatch.setenv(f"FAKE_NVML_{name.upper()}", str(tmp_path / name))
    return tmp_path


@pytest.fixture
def no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no library stands before a real driver, should there be one."""
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every test ends its GPU processes."""
    yield
    assert gpu_processes() == []


def gpu_processes() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "devloop.remote_agent.nvml" in child.cmdline()
    ]


@needs_compiler
@pytest.mark.usefixtures("driver")
async def test_every_value_of_a_gpu_arrives() -> None:
    reader = GpuReader()
    snapshot = await reader.read()
    await reader.close()
    assert (snapshot.state, snapshot.detail) == (GpuState.OK, "")
    first, second = snapshot.gpus
    assert (first.index, first.uuid, first.name) == (0, "GPU-fake-0", "Fake 0")
    assert (first.memory_used_bytes, first.memory_total_bytes) == (300 * MIB, 1000 * MIB)
    assert (first.utilization_percent, first.temperature_c) == (87, 61)
    assert (first.power_w, first.power_limit_w) == (250.5, 300.0)
    assert first.throttle_reasons == ("power cap", "hardware thermal slowdown")
    assert second.name == "Fake 1"


@needs_compiler
@pytest.mark.usefixtures("driver")
async def test_what_a_gpu_does_not_support_is_absent() -> None:
    reader = GpuReader()
    _, gpu = (await reader.read()).gpus
    await reader.close()
    assert gpu.memory_used_bytes == 400 * MIB  # by the older call
    assert (gpu.utilization_percent, gpu.temperature_c) == (None, None)
    assert (gpu.power_w, gpu.power_limit_w) == (None, None)
    assert (gpu.processes, gpu.throttle_reasons) == ((), ())


@needs_compiler
@pytest.mark.usefixtures("driver")
async def test_a_process_on_a_gpu_is_named_with_its_user() -> None:
    reader = GpuReader()
    ours, ended = (await reader.read()).gpus[0].processes
    await reader.close()
    assert (ours.pid, ours.memory_bytes) == (os.getpid(), 123 * MIB)
    assert ours.user == getpass.getuser()
    assert "python" in ours.command
    assert (ended.memory_bytes, ended.command, ended.user) == (None, "", "")


@pytest.mark.usefixtures("no_driver")
async def test_a_machine_without_a_driver_says_so() -> None:
    reader = GpuReader()
    snapshot = await reader.read()
    await reader.close()
    assert (snapshot.state, snapshot.detail, snapshot.gpus) == (GpuState.NONE, "no driver", ())


@needs_compiler
async def test_a_lost_gpu_is_unavailable_and_comes_back(driver: Path) -> None:
    reader = GpuReader(backoff_s=0.0)
    (driver / "lost").touch()
    snapshot = await reader.read()
    assert snapshot.state is GpuState.UNAVAILABLE
    assert "lost" in snapshot.detail.lower()
    (driver / "lost").unlink()
    assert (await reader.read()).state is GpuState.OK
    await reader.close()


@needs_compiler
async def test_a_slow_driver_is_waited_for_in_the_background(driver: Path) -> None:
    (driver / "wedged").touch()
    reader = GpuReader(deadline_s=0.05, patience_s=60)
    await reader.read()
    (process,) = gpu_processes()
    snapshot = await reader.read()
    assert snapshot.state is GpuState.UNAVAILABLE
    assert gpu_processes() == [process]
    await reader.close()


@needs_compiler
async def test_a_stuck_process_is_killed_and_tried_again_after_a_while(driver: Path) -> None:
    (driver / "wedged").touch()
    reader = GpuReader(deadline_s=0.5, patience_s=0.0, backoff_s=0.05)
    assert (await reader.read()).state is GpuState.UNAVAILABLE
    (driver / "wedged").unlink()
    async with asyncio.timeout(30):
        while (snapshot := await reader.read()).state is not GpuState.OK:
            pass
    assert len(snapshot.gpus) == 2
    await reader.close()


@needs_compiler
@pytest.mark.usefixtures("driver")
async def test_a_killed_process_is_replaced() -> None:
    reader = GpuReader(backoff_s=0.0)
    assert (await reader.read()).state is GpuState.OK
    (process,) = gpu_processes()
    process.send_signal(signal.SIGKILL)
    snapshot = await reader.read()
    assert snapshot.state is GpuState.UNAVAILABLE
    assert "ended" in snapshot.detail
    assert (await reader.read()).state is GpuState.OK
    await reader.close()


@needs_compiler
async def test_the_process_dies_with_the_agent(driver: Path) -> None:
    """Also while it is stuck in the driver, where it cannot see that its stdin ended."""
    code = """if True:
        import asyncio, psutil
        from devloop.remote_agent.gpu import GpuReader
        async def main():
            reader = GpuReader()
            asking = asyncio.create_task(reader.read())
            await asyncio.sleep(1)
            print(psutil.Process().children()[0].pid, flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
    """
    (driver / "wedged").touch()
    agent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert agent.stdout is not None
    child = psutil.Process(int(agent.stdout.readline()))
    agent.kill()
    agent.communicate()
    assert child.wait(timeout=5) is None  # not our child: no status


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b'{"state":"ODD","detail":"","gpus":[]}'])
def test_an_answer_that_is_no_snapshot_is_refused(line: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode_snapshot(line)


def test_the_process_answers_each_line_and_ends_with_its_input() -> None:
    argv = [sys.executable, "-m", "devloop.remote_agent.nvml"]
    answers = subprocess.run(argv, input=b"\n\n", capture_output=True, check=True, timeout=60)
    lines = answers.stdout.splitlines()
    assert len(lines) == 2
    assert json.loads(lines[0])["state"] in GpuState.__members__


# -- through Metrics


@needs_compiler
@pytest.mark.usefixtures("driver")
async def test_subscribers_share_one_process_that_ends_with_the_last(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    async with aclosing(metrics.subscribe(0.05)) as first:
        assert len((await anext(first)).gpus) == 2
        async with aclosing(metrics.subscribe(60)) as second:
            assert (await anext(second)).gpu_state is GpuState.OK
            assert len(gpu_processes()) == 1
        await anext(first)
        assert len(gpu_processes()) == 1
    assert gpu_processes() == []
    async with aclosing(metrics.subscribe(0.05)) as again:
        while (await anext(again)).gpu_state is not GpuState.OK:
            pass


@needs_compiler
async def test_a_change_of_the_gpus_state_is_told_at_once(driver: Path, tmp_path: Path) -> None:
    (driver / "wedged").touch()
    reader = GpuReader(deadline_s=0.2, patience_s=1.0, backoff_s=0.1)
    metrics = Metrics(tmp_path, gpu=reader)
    async with (
        asyncio.timeout(30),
        aclosing(metrics.subscribe(0.05)) as eager,
        aclosing(metrics.subscribe(600)) as patient,
    ):
        assert (await anext(eager)).gpu_state is GpuState.UNAVAILABLE
        assert (await anext(patient)).gpu_state is GpuState.UNAVAILABLE
        (driver / "wedged").unlink()
        while (await anext(patient)).gpu_state is not GpuState.OK:
            pass
