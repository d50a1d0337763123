"""A GPU picked for a run, on a machine that has one: CUDA sees it, and others are kept off it.

No network, no torch: the driver's own library is asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.gpu.test_gpu_metrics import has_gpu, holder, nvidia_smi

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU that nvidia-smi lists"),
    pytest.mark.timeout(300),
]

# Prints how many devices CUDA sees, the first one's uuid as bytes, and what it was told to see.
SHOW = """\
import ctypes, os
cuda = ctypes.CDLL("libcuda.so.1")
count, device, uuid = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
status = cuda.cuInit(0)
if status == 0:
    cuda.cuDeviceGetCount(ctypes.byref(count))
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetUuid_v2(uuid, device)
print(count.value, bytes(uuid).hex(), os.environ["CUDA_VISIBLE_DEVICES"])
"""


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVLOOP_GPU_LOCKS_DIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def devloop(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "devloop.cli.main", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_cuda_sees_the_one_that_was_picked_and_nothing_else(project: Path) -> None:
    (project / "show.py").write_text(SHOW)
    try:
        for kind in ("cold", "warm"):
            run = devloop("exec", "--gpus", "1", "--", sys.executable, "show.py")
            assert run.returncode == 0, run.stderr
            count, uuid, told = run.stdout.split()
            print(f"{kind}: {run.stdout.strip()}")
            assert count == "1"
            assert told.startswith("MIG-") or told == as_text(uuid)
        hidden = devloop("exec", "--gpus", "0", "--", sys.executable, "show.py")
        assert hidden.stdout.split() == ["0", "00" * 16]
    finally:
        devloop("down")


def as_text(uuid: str) -> str:
    parts = (uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:])
    return "GPU-" + "-".join(parts)


def test_a_gpu_with_a_program_on_it_is_not_free_and_the_program_is_named(project: Path) -> None:
    try:
        if not first_gpu()["is_free"]:
            pytest.skip("needs an NVIDIA GPU that nobody uses")
        with holder() as process:
            if [str(process.pid)] not in nvidia_smi("pid", query="compute-apps"):
                pytest.skip("needs an NVIDIA GPU whose driver sees this pid namespace")
            assert not first_gpu()["is_free"]
            assert f"(pid {process.pid})" in first_gpu()["users"][0]
    finally:
        devloop("down")


def test_a_gpu_that_a_run_holds_is_not_free_until_it_has_ended(project: Path) -> None:
    try:
        if not first_gpu()["is_free"]:
            pytest.skip("needs an NVIDIA GPU that nobody uses")
        started = devloop("exec", "-d", "--gpus", "1", "--", "sleep", "600")
        assert started.returncode == 0, started.stderr
        assert "run 1 of project" in devloop("gpus").stdout
        devloop("stop", "1")
        assert "run 1 of project" not in devloop("gpus").stdout
    finally:
        devloop("down")


def first_gpu() -> dict[str, Any]:
    """The first that can be picked, if the box's first one is divided."""
    gpu = json.loads(devloop("gpus", "--json").stdout)["gpus"][0]
    return gpu["slices"][0] if gpu["is_divided"] else gpu  # type: ignore[no-any-return]
