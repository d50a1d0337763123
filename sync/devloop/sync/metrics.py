"""What a box and its GPUs do, as plain values: one sample of the agent's stream of them.

Owns the names only. What a driver does not say is 0, as in the protocol.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "ContainerState",
    "GpuSample",
    "GpuState",
    "HostSample",
    "Sample",
    "SampleProcess",
    "Warmth",
]


class GpuState(IntEnum):
    """Values as in the protocol."""

    NONE = 1  # no driver, or no GPU
    OK = 2
    UNAVAILABLE = 3  # there is a driver, and it does not answer


class ContainerState(IntEnum):
    """Values as in the protocol."""

    NONE = 0  # nothing was started in one yet, or it has ended
    STARTING = 1
    WARM = 2


class Warmth(NamedTuple):
    """What the next start finds ready. `ahead`: gone through of what starts are known to touch of
    the image; nothing is fetched ahead where there are none in all."""

    zygotes: int  # interpreters that have done their imports
    loading: int  # those that are at them
    container: ContainerState = ContainerState.NONE
    containers: int = 0  # that were started for it, one after another
    ahead_files: int = 0
    ahead_of_files: int = 0
    ahead_bytes: int = 0
    ahead_of_bytes: int = 0


class HostSample(NamedTuple):
    cpu_percent: float  # of all cores, 0 to 100
    memory_used_bytes: int
    memory_total_bytes: int
    disk_used_bytes: int  # of the file system of the workspaces
    disk_total_bytes: int
    load_1m: float
    net_received_bytes: int  # since boot
    net_sent_bytes: int


class SampleProcess(NamedTuple):
    """Of any user, on one GPU."""

    pid: int  # as the box sees it
    memory_bytes: int
    command: str
    user: str
    computes: bool  # rather than draws a screen
    run: int = 0  # of the workspace that was asked for; 0: somebody else's


class GpuSample(NamedTuple):
    """A GPU, or a slice of one that is divided (MIG): then all but names and memory is 0."""

    uuid: str
    label: str  # as nvidia-smi numbers them: "0", and "0:1" for a slice
    name: str
    utilization_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    temperature_c: float
    power_w: float
    power_limit_w: float
    throttle_reasons: tuple[str, ...]
    processes: tuple[SampleProcess, ...]
    slices: tuple[GpuSample, ...] = ()


class Sample(NamedTuple):
    time_ns: int  # Unix time of the box
    host: HostSample
    gpu_state: GpuState
    gpu_detail: str  # unless OK: why, for people
    gpus: tuple[GpuSample, ...]
    warmth: Warmth | None = None  # of the workspace that was asked for; None: nothing ran there yet
