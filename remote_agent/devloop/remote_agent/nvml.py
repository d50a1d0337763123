"""The process that asks NVML: for each line on stdin it writes one line of JSON to stdout.

Run as `python -m devloop.remote_agent.nvml`. NVML calls may block for ever inside the driver, so
nothing else lives here; it ends with its stdin, or when the agent dies.
"""

from __future__ import annotations

import ctypes
import functools
import json
import signal
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import pynvml

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main", "snapshot"]

T = TypeVar("T")

PR_SET_PDEATHSIG = 1
NO_DRIVER = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
MAX_COMMAND_CHARS = 200
# Between GPUs: 1 by NVLink, then NVML's levels of topology, which end at 50.
NVLINK_DISTANCE = 1
UNKNOWN_DISTANCE = 100

# Bits of nvmlDeviceGetCurrentClocksThrottleReasons that mean "slower than it could be".
THROTTLE_REASONS = {
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "power brake",
}


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is not meant for us
    for _ in iter(sys.stdin.buffer.readline, b""):
        answer = json.dumps(snapshot(), separators=(",", ":")).encode()
        sys.stdout.buffer.write(answer + b"\n")
        sys.stdout.buffer.flush()


def snapshot() -> dict[str, Any]:
    """State, detail and GPUs, in the words of gpu.py's dataclasses."""
    try:
        _ensure_initialized()
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        gpus = [_gpu(index, handle) for index, handle in enumerate(handles)]
        for gpu, distances in zip(gpus, _all_distances(handles), strict=True):
            gpu["distances"] = distances
    except pynvml.NVMLError as error:
        if error.value in NO_DRIVER:
            return {"state": "NONE", "detail": "no driver", "gpus": []}
        return {"state": "UNAVAILABLE", "detail": f"NVIDIA driver: {error}", "gpus": []}
    if not gpus:
        return {"state": "NONE", "detail": "no GPU", "gpus": []}
    return {"state": "OK", "detail": "", "gpus": gpus}


_initialized = False


def _ensure_initialized() -> None:
    global _initialized
    if not _initialized:
        pynvml.nvmlInit()
        _initialized = True


def _gpu(index: int, handle: Any) -> dict[str, Any]:
    memory = _memory(handle)
    utilization = _supported(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    power_mw = _supported(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    limit_mw = _supported(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    return {
        "index": index,
        "uuid": _text(pynvml.nvmlDeviceGetUUID(handle)),
        "name": _text(pynvml.nvmlDeviceGetName(handle)),
        "utilization_percent": utilization,
        "memory_used_bytes": memory.used if memory else None,
        "memory_total_bytes": memory.total if memory else None,
        "temperature_c": _temperature_c(handle),
        "power_w": power_mw / 1000 if power_mw is not None else None,
        "power_limit_w": limit_mw / 1000 if limit_mw is not None else None,
        "processes": _processes(handle),
        "throttle_reasons": _throttle_reasons(handle),
        **_division(handle),
    }


def _division(handle: Any) -> dict[str, Any]:
    """Whether it is divided, and its slices."""
    mode = _supported(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0])
    if mode != pynvml.NVML_DEVICE_MIG_ENABLE:
        return {"is_divided": False, "slices": []}
    count = _supported(lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)) or 0
    ask = functools.partial(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle)
    handles = [_supported(functools.partial(ask, index)) for index in range(count)]
    slices = [_slice(index, found) for index, found in enumerate(handles) if found is not None]
    return {"is_divided": True, "slices": slices}


def _slice(index: int, handle: Any) -> dict[str, Any]:
    memory = _memory(handle)
    return {
        "index": index,
        "uuid": _text(pynvml.nvmlDeviceGetUUID(handle)),
        "name": _text(pynvml.nvmlDeviceGetName(handle)),
        "memory_used_bytes": memory.used if memory else None,
        "memory_total_bytes": memory.total if memory else None,
        "processes": _processes(handle),
    }


_distances: list[list[int]] = []


def _all_distances(handles: list[Any]) -> list[list[int]]:
    """From each to each; asked for once, since the boards stay where they are."""
    global _distances
    if len(_distances) != len(handles):
        _distances = [[_distance(one, two) for two in handles] for one in handles]
    return _distances


def _distance(one: Any, two: Any) -> int:
    if one is two:
        return 0
    nvlink = pynvml.NVML_P2P_CAPS_INDEX_NVLINK
    status = _supported(lambda: pynvml.nvmlDeviceGetP2PStatus(one, two, nvlink))
    if status == pynvml.NVML_P2P_STATUS_OK:
        return NVLINK_DISTANCE
    level = _supported(lambda: pynvml.nvmlDeviceGetTopologyCommonAncestor(one, two))
    return UNKNOWN_DISTANCE if level is None else int(level)


def _supported(ask: Callable[[], T]) -> T | None:
    """None when this GPU or driver does not have the value; a lost GPU is an error all the same."""
    try:
        return ask()
    except pynvml.NVMLError as error:
        if error.value in (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED):
            raise
        return None


def _memory(handle: Any) -> Any:
    """Version 2 leaves out what the driver keeps for itself, as nvidia-smi does."""
    version_2 = _supported(
        lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    )
    if version_2 is not None:
        return version_2
    return _supported(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))


def _temperature_c(handle: Any) -> int | None:
    sensor = pynvml.NVML_TEMPERATURE_GPU
    return _supported(lambda: pynvml.nvmlDeviceGetTemperature(handle, sensor))


def _throttle_reasons(handle: Any) -> list[str]:
    bits = _supported(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0
    return [reason for bit, reason in THROTTLE_REASONS.items() if bits & bit]


def _processes(handle: Any) -> list[dict[str, Any]]:
    """Every process once, with the larger of what it holds for computing and for graphics."""
    held: dict[int, int] = {}
    computing = _listed(handle, "Compute")
    for process in computing + _listed(handle, "Graphics"):
        held[process.pid] = max(held.get(process.pid, 0), process.usedGpuMemory or 0)
    compute_pids = {process.pid for process in computing}
    return [
        {**_process(pid, memory_bytes or None), "computes": pid in compute_pids}
        for pid, memory_bytes in sorted(held.items())
    ]


def _listed(handle: Any, kind: str) -> list[Any]:
    """A driver before 510 has only version 2. (pynvml's unversioned name is version 3.)"""
    for version in (3, 2):
        ask = getattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses_v{version}")
        processes = _supported(functools.partial(ask, handle))
        if processes is not None:
            return list(processes)
    return []


def _process(pid: int, memory_bytes: int | None) -> dict[str, Any]:
    command, user = "", ""
    try:
        process = psutil.Process(pid)
        command = " ".join(process.cmdline())[:MAX_COMMAND_CHARS] or process.name()
        user = process.username()
    except (psutil.Error, OSError):
        pass  # it ended meanwhile, or runs where we cannot look
    return {"pid": pid, "memory_bytes": memory_bytes, "command": command, "user": user}


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


if __name__ == "__main__":
    main()
