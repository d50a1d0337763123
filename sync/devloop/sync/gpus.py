"""The GPUs of a box, as plain values: what `devloop gpus` lists. Few commands need them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Gpu", "GpuHolder", "GpuProcess", "Gpus"]


class GpuProcess(NamedTuple):
    """`run`: the number of the run that it belongs to, 0 = none of this agent's."""

    pid: int
    memory_bytes: int  # 0 = not known
    command: str
    user: str
    computes: bool
    run: int
    workspace_id: str


class GpuHolder(NamedTuple):
    """A devloop run of any user. What it says of itself: "" and 0 where it says nothing."""

    user: str
    project: str
    run: int
    since_ns: int


class Gpu(NamedTuple):
    """A GPU, or a slice of one that is divided (MIG). What is not known is 0."""

    uuid: str
    label: str  # as nvidia-smi numbers them: "0", and "0:1" for a slice
    name: str
    utilization_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    temperature_c: float
    processes: tuple[GpuProcess, ...]
    holder: GpuHolder | None
    users: tuple[str, ...]  # for people; nobody: it is free, unless it is divided
    is_divided: bool  # then only its slices compute
    slices: tuple[Gpu, ...]

    @property
    def is_free(self) -> bool:
        return not (self.users or self.is_divided)


class Gpus(NamedTuple):
    """All of a box. `detail`: why there are none to list, for people; empty: they are listed."""

    gpus: tuple[Gpu, ...]
    detail: str
    is_unavailable: bool  # there is a driver, and it does not answer
