"""A run: one execution of a command, pinned to one tree digest.

Owns the values that say what to run, how it stands and how it ended, and the Run that they belong
to, with what it holds while it is live: log, standard input, terminal, GPUs. Refuses to know other
runs, and how one is started (`run_life.py`), ended (`run_stop.py`) or kept (`run_record.py`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING

from .logs import LogStream
from .terminal import set_terminal_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from devloop.cafs.digest import Digest

    from .container.spec import ContainerSpec
    from .gpu_choice import Place
    from .gpu_desk import GpuHold
    from .logs import RunLog
    from .spawn import Process
    from .stdin import StdinWriter

__all__ = ["Run", "RunEnd", "RunSpec", "RunState", "StartFailure", "describe_exit"]


class RunState(IntEnum):
    """Values as in the protocol."""

    STARTING = 1
    RUNNING = 2
    STOPPING = 3
    ENDED = 4


class StartFailure(IntEnum):
    """Values as in the protocol."""

    NONE = 0
    NOT_FOUND = 1
    NOT_EXECUTABLE = 2
    OTHER = 3


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What to run, and how. Durations in seconds."""

    argv: tuple[bytes, ...]
    env: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    env_is_whole: bool = False
    tty: bool = False
    rows: int = 0
    columns: int = 0
    stdin: bool = False
    warm: bool = True
    preload: tuple[str, ...] = ()
    stop_timeout_s: float = 2.0
    lease_s: float = 0.0
    reason: str = ""
    outputs: tuple[str, ...] = ()
    owner: str = ""
    cwd: bytes = b""  # relative to the workspace
    shell: bool = False  # see shell.py: not pinned to a tree, not kept when it has ended
    login: bool = False  # in a container, a shell's command is what the image's passwd says
    gpus: str = ""  # a wish, see cafs/gpu_wish.py; empty: CUDA_VISIBLE_DEVICES is left alone
    container: ContainerSpec | None = None  # None: it sees the box's own files


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended."""

    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    peak_memory_bytes: int = 0
    user_s: float = 0.0
    system_s: float = 0.0
    wall_s: float = 0.0
    start_failure: StartFailure = StartFailure.NONE
    detail: str = ""


class Run:
    """One run. `changed()` returns when its state or timings have changed."""

    def __init__(
        self, number: int, tree: Digest, spec: RunSpec, open_log: Callable[[], RunLog]
    ) -> None:
        self.number = number
        self.tree = tree
        self.spec = spec
        self._open_log = open_log
        self.state = RunState.STARTING
        self.started_ns = time.time_ns()
        self.first_output_ns = 0
        self.ended_ns = 0
        self.end = RunEnd()
        self.start_kind = ""
        self.start_note = ""
        self.process: Process | None = None
        self.stdin: StdinWriter | None = None
        self.terminal_fd: int | None = None
        self.size = (spec.rows, spec.columns)
        self.stop_reason = ""
        self.place_ended = asyncio.Event()  # its container has, and `stop_reason` says why
        self.leases = 0
        self.is_kept = False  # whoever stays away
        self.leased_until_s = 0.0  # monotonic; when the last lease was given up
        self.gpus: tuple[Place, ...] = ()
        self.gpu_hold: GpuHold | None = None  # until it has ended
        self.ended = asyncio.Event()
        self._changed = asyncio.Event()
        self._early_signals: list[int] = []

    @cached_property
    def log(self) -> RunLog:
        """Opened when somebody looks: there may be a hundred runs that nobody asks for."""
        return self._open_log()

    @property
    def live(self) -> bool:
        return self.state is not RunState.ENDED

    @property
    def is_read(self) -> bool:
        """Somebody reads its log."""
        return "log" in self.__dict__ and self.log.is_read

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    def say(self, line: str) -> None:
        """Something of ours between its output; `line` has no end."""
        self.log.append(LogStream.DEVLOOP, f"{line}\n".encode(), time.time_ns())

    async def changed(self) -> None:
        await self._changed.wait()

    def touch(self) -> None:
        """Wakes everybody in `changed`."""
        self._changed.set()
        self._changed = asyncio.Event()

    def signal(self, number: int) -> None:
        """To the run's foreground process group; nothing when it has ended."""
        if self.state is RunState.STARTING:
            self._early_signals.append(number)
        elif self.process is not None and self.live:
            self.process.signal(number)

    def started(self, process: Process) -> None:
        """From here on it is RUNNING."""
        self.process = process
        self.start_kind, self.start_note = process.kind, process.note
        self.state = RunState.RUNNING
        self.touch()
        for number in self._early_signals:
            process.signal(number)

    def finish(self, end: RunEnd) -> None:
        """From here on it is ENDED, and holds nothing."""
        self.end = end
        self.ended_ns = time.time_ns()
        self.log.close()
        if self.stdin is not None:
            self.stdin.close()
        if self.terminal_fd is not None:
            os.close(self.terminal_fd)
            self.terminal_fd = None
        if self.gpu_hold is not None:
            self.gpu_hold.release()
            self.gpu_hold = None
        self.state = RunState.ENDED
        self.ended.set()
        self.touch()

    async def ended_within(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(self.ended.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def resize(self, rows: int, columns: int) -> None:
        """Also of a terminal that is still to be opened."""
        self.size = (rows, columns)
        if self.terminal_fd is not None and self.live:
            set_terminal_size(self.terminal_fd, rows, columns)


def describe_exit(code: int, signal_number: int) -> str:
    """For people: "exited 1", "killed by SIGKILL"."""
    if signal_number == 0:
        return f"exited {code}"
    try:
        name = signal.Signals(signal_number).name
    except ValueError:
        name = f"signal {signal_number}"
    return f"killed by {name}"
