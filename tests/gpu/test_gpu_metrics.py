"""What only a machine with an NVIDIA GPU can show: our figures are the driver's.

No network, no torch: memory is allocated through the driver's own library.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from devloop.remote_agent.gpu import Gpu, GpuProcess, GpuReader, GpuState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

MIB = 1 << 20
HELD_MIB = 512

# Holds HELD_MIB on GPU 0, says so, and waits for its stdin to end.
HOLDER = """if True:
    import ctypes, sys
    cuda = ctypes.CDLL("libcuda.so.1")
    def check(status, what):
        if status:
            sys.exit(f"{what} failed with {status}")
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    check(cuda.cuInit(0), "cuInit")
    check(cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
    check(cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device), "cuCtxCreate")
    size = ctypes.c_size_t(int(sys.argv[1]) << 20)
    check(cuda.cuMemAlloc_v2(ctypes.byref(memory), size), "cuMemAlloc")
    check(cuda.cuMemsetD8_v2(memory, ctypes.c_ubyte(1), size), "cuMemset")
    print("held", flush=True)
    sys.stdin.read()
"""


def has_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return False
    return listed.returncode == 0 and listed.stdout.startswith(b"GPU ")


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU that nvidia-smi lists"),
]


def nvidia_smi_text(*fields: str, query: str = "gpu") -> str:
    argv = ["nvidia-smi", f"--query-{query}={','.join(fields)}", "--format=csv,noheader,nounits"]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def nvidia_smi(*fields: str, query: str = "gpu") -> list[list[str]]:
    answer = nvidia_smi_text(*fields, query=query)
    return list(csv.reader(answer.splitlines(), skipinitialspace=True))


@pytest.fixture
async def reader() -> AsyncIterator[GpuReader]:
    reader = GpuReader(deadline_s=30)
    yield reader
    await reader.close()


@contextmanager
def holder() -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds HELD_MIB on GPU 0."""
    argv = [sys.executable, "-c", HOLDER, str(HELD_MIB)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


async def gpu_0(reader: GpuReader) -> Gpu:
    snapshot = await reader.read()
    assert snapshot.state is GpuState.OK, snapshot.detail
    return snapshot.gpus[0]


async def eventually(reader: GpuReader, true_of: Callable[[Gpu], bool]) -> Gpu:
    until = time.monotonic() + 20
    while not true_of(gpu := await gpu_0(reader)):
        assert time.monotonic() < until, gpu
    return gpu


async def test_every_gpu_is_listed_as_nvidia_smi_does(reader: GpuReader) -> None:
    snapshot = await reader.read()
    assert snapshot.state is GpuState.OK, snapshot.detail
    listed = [[str(gpu.index), gpu.uuid, gpu.name] for gpu in snapshot.gpus]
    assert listed == nvidia_smi("index", "uuid", "name")


async def test_memory_temperature_and_power_are_those_of_nvidia_smi(reader: GpuReader) -> None:
    columns = ("memory.used", "memory.total", "temperature.gpu", "power.draw")
    await reader.read()
    theirs = nvidia_smi(*columns)
    ours = (await reader.read()).gpus
    for gpu, (used, total, temperature, power) in zip(ours, theirs, strict=True):
        assert_close(mib(gpu.memory_used_bytes), used, tolerance=64)
        assert_close(mib(gpu.memory_total_bytes), total, tolerance=2)
        assert_close(gpu.temperature_c, temperature, tolerance=5)
        assert_close(gpu.power_w, power, tolerance=60)


async def test_the_power_limit_is_that_of_nvidia_smi(reader: GpuReader) -> None:
    ours = (await reader.read()).gpus
    for gpu, (limit,) in zip(ours, nvidia_smi("enforced.power.limit"), strict=True):
        assert_close(gpu.power_limit_w, limit, tolerance=1)


def mib(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / MIB


def assert_close(ours: float | None, theirs: str, *, tolerance: float) -> None:
    """What nvidia-smi cannot say, as "[N/A]", we leave out."""
    if theirs.startswith("["):
        assert ours is None
    else:
        assert ours == pytest.approx(float(theirs), abs=tolerance)


async def test_memory_rises_with_a_process_and_falls_back_when_it_is_killed(
    reader: GpuReader,
) -> None:
    baseline = used(await gpu_0(reader))
    with holder() as process:
        held = used(await gpu_0(reader))
        assert held >= baseline + HELD_MIB * MIB
        process.kill()
        process.wait()
        after = await eventually(reader, lambda gpu: used(gpu) <= baseline + 16 * MIB)
    print(f"MiB used: {baseline >> 20} before, {held >> 20} held, {used(after) >> 20} after")


def used(gpu: Gpu) -> int:
    assert gpu.memory_used_bytes is not None
    return gpu.memory_used_bytes


async def test_a_process_on_the_gpu_is_named_with_its_memory(reader: GpuReader) -> None:
    with holder() as process:
        if [str(process.pid)] not in nvidia_smi("pid", query="compute-apps"):
            pytest.skip("needs an NVIDIA GPU whose driver sees this pid namespace")
        gpu = await eventually(reader, lambda gpu: listed(gpu, process.pid) is not None)
        ours: Any = listed(gpu, process.pid)
    assert ours.memory_bytes is None or ours.memory_bytes >= HELD_MIB * MIB
    assert "cuMemAlloc" in ours.command or "python" in ours.command
    assert ours.user


def listed(gpu: Gpu, pid: int) -> GpuProcess | None:
    return next((process for process in gpu.processes if process.pid == pid), None)
