"""GPU metrics, asked of a process of its own that can get stuck without stopping anything else.

Owns that process (`nvml.py`), every request's deadline, and when to try again. Knows no NVML.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

__all__ = [
    "NOT_YET_ASKED",
    "Gpu",
    "GpuProcess",
    "GpuReader",
    "GpuSlice",
    "GpuSnapshot",
    "GpuState",
]

MAX_ANSWER_BYTES = 1 << 20
LONGEST_BACKOFF_S = 60.0


class GpuState(IntEnum):
    NONE = 1  # no driver, or no GPU
    OK = 2
    UNAVAILABLE = 3  # there is a driver, and it does not answer


@dataclass(frozen=True, slots=True)
class GpuProcess:
    pid: int
    memory_bytes: int | None
    command: str
    user: str
    computes: bool = True  # rather than draws a screen


@dataclass(frozen=True, slots=True)
class GpuSlice:
    """A part of a divided GPU (MIG) that a run sees as a GPU of its own. Indices may have gaps."""

    index: int
    uuid: str
    name: str
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. A value that it does not support is None."""

    index: int
    uuid: str
    name: str
    utilization_percent: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_c: float | None
    power_w: float | None
    power_limit_w: float | None
    processes: tuple[GpuProcess, ...] = ()
    throttle_reasons: tuple[str, ...] = ()
    is_divided: bool = False  # then only its slices compute; there may be none
    slices: tuple[GpuSlice, ...] = ()
    # To each GPU by its place in the snapshot: 0 itself, 1 by NVLink, then NVML's levels, 10 for
    # one board to 50 for another socket; more is not known.
    distances: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuSnapshot:
    state: GpuState
    detail: str = ""  # for people, unless OK
    gpus: tuple[Gpu, ...] = ()


NOT_YET_ASKED = GpuSnapshot(GpuState.UNAVAILABLE, "no answer yet")


class GpuReader:
    """Starts the process at the first `read`, and again after a while when it got stuck or died."""

    def __init__(
        self, *, deadline_s: float = 2.5, patience_s: float = 20.0, backoff_s: float = 1.0
    ) -> None:
        """A driver that has not answered after `deadline_s` is reported as unavailable; its
        process is killed after `patience_s` (waking many GPUs may well take ten seconds)."""
        self._deadline_s = deadline_s
        self._patience_s = patience_s
        self._backoff_s = self._first_backoff_s = backoff_s
        self._retry_at = 0.0
        self._last = NOT_YET_ASKED
        self._child: _Child | None = None
        self._asked_at = 0.0
        self._answer: asyncio.Task[GpuSnapshot] | None = None
        self._abandoned: list[_Child] = []

    async def read(self) -> GpuSnapshot:
        """What the GPUs do now; returns within the deadline, whatever the driver does."""
        self._abandoned = [child for child in self._abandoned if not child.is_gone()]
        if self._child is None and time.monotonic() < self._retry_at:
            return self._last
        self._last = await self._ask()
        return self._last

    @property
    def is_waiting(self) -> bool:
        """The driver has been asked, and may still answer: another `read` waits on."""
        return self._answer is not None

    async def close(self) -> None:
        """Ends the process. One that cannot be killed is left behind, and not waited for."""
        self._give_up()
        for child in self._abandoned:
            await child.gone(timeout_s=1.0)
        self._abandoned = [child for child in self._abandoned if not child.is_gone()]

    async def _ask(self) -> GpuSnapshot:
        if self._answer is None:
            self._asked_at = time.monotonic()
            self._answer = asyncio.create_task(self._request())
        done, _ = await asyncio.wait({self._answer}, timeout=self._deadline_s)
        if not done:
            return self._no_answer()
        answer, self._answer = self._answer, None
        try:
            snapshot = answer.result()
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            self._retry_later()
            return GpuSnapshot(GpuState.UNAVAILABLE, f"the GPU reader ended: {error}")
        if snapshot.state is GpuState.OK:
            self._backoff_s = self._first_backoff_s
        else:
            self._retry_later()
        return snapshot

    async def _request(self) -> GpuSnapshot:
        if self._child is None:
            self._child = _Child()
        return decode_snapshot(await self._child.ask())

    def _no_answer(self) -> GpuSnapshot:
        waited_s = time.monotonic() - self._asked_at
        if waited_s >= self._patience_s:
            self._retry_later()
        detail = f"the NVIDIA driver has not answered for {waited_s:.1f} s"
        return GpuSnapshot(GpuState.UNAVAILABLE, detail)

    def _retry_later(self) -> None:
        self._give_up()
        self._retry_at = time.monotonic() + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, LONGEST_BACKOFF_S)

    def _give_up(self) -> None:
        if self._answer is not None:
            self._answer.cancel()
            self._answer = None
        if self._child is not None:
            self._child.kill()
            self._abandoned.append(self._child)
            self._child = None


class _Child:
    """The process that talks to NVML: a line to it asks, a line from it answers."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            # -P: nothing from the agent's working directory is imported.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "devloop.remote_agent.nvml"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
            )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> bytes:
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(
                sock=self._socket, limit=MAX_ANSWER_BYTES
            )
        reader, writer = self._streams
        writer.write(b"\n")
        line = await reader.readline()
        if not line:
            raise EOFError(f"exit status {self._process.poll()}")
        return line

    def kill(self) -> None:
        self._process.kill()
        if self._streams is None:
            self._socket.close()
        else:
            self._streams[1].transport.abort()

    def is_gone(self) -> bool:
        return self._process.poll() is not None

    async def gone(self, *, timeout_s: float) -> None:
        try:
            await asyncio.to_thread(self._process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            pass


def decode_snapshot(line: bytes) -> GpuSnapshot:
    """Raises ValueError, KeyError or TypeError for anything but a snapshot."""
    fields = json.loads(line)
    gpus = tuple(_decode_gpu(gpu) for gpu in fields["gpus"])
    return GpuSnapshot(GpuState[fields["state"]], fields["detail"], gpus)


def _decode_gpu(fields: dict[str, Any]) -> Gpu:
    return Gpu(
        processes=_decode_processes(fields),
        throttle_reasons=tuple(fields.pop("throttle_reasons")),
        slices=tuple(_decode_slice(part) for part in fields.pop("slices")),
        distances=tuple(fields.pop("distances")),
        **fields,
    )


def _decode_slice(fields: dict[str, Any]) -> GpuSlice:
    return GpuSlice(processes=_decode_processes(fields), **fields)


def _decode_processes(fields: dict[str, Any]) -> tuple[GpuProcess, ...]:
    return tuple(GpuProcess(**process) for process in fields.pop("processes"))
