"""The life of a run, from the opening of its streams to the record of its end.

Owns the order in which streams, processes, pump, record and lease come and go. Refuses to know
other runs and what is kept of them; leaves the births and deaths of processes to `spawn.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError

from .oom import killed_line
from .pump import Pump
from .run import RunEnd, StartFailure, describe_exit
from .run_lease import end_unless_leased
from .run_record import write_record
from .spawn import CommandNotExecutable, CommandNotFound, StartFailed
from .start_request import start_request
from .stdio import Stdio
from .terminal import set_terminal_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .run import Run, RunSpec
    from .spawn import Exit, Process, Spawner, StartRequest
    from .tasks import Tasks

__all__ = ["RunLife", "prepare"]

# The record of a start is written when the first output is on its way: before it, it cost a save
# 0.6 ms. A run that has ended by then needs no record of its start.
RECORD_AFTER_S = 0.03
CONTAINER_SAYS_S = 0.5


class RunLife:
    """One run's. `directory` is the run's own, `cwd` the workspace's.

    `on_settled` is called when it has been started for a while, `on_ended` after the record of its
    end. Its tasks are owned by `tasks`.
    """

    def __init__(
        self,
        run: Run,
        directory: Path,
        *,
        cwd: Path,
        local_root: bytes | None,
        spawner: Spawner,
        tasks: Tasks,
        on_settled: Callable[[], None],
        on_ended: Callable[[Run], None],
    ) -> None:
        self._run = run
        self._directory = directory
        self._cwd = cwd
        self._local_root = local_root
        self._spawner = spawner
        self._tasks = tasks
        self._on_settled = on_settled
        self._on_ended = on_ended
        self._begun = asyncio.Event()

    async def begin(self) -> None:
        """Returns when its processes are born, could not be, or, for one that takes no input and is
        born of a zygote, are on their way: it is then STARTING."""
        self._tasks.spawn(self._launch(), f"start of run {self._run.number}")
        await self._begun.wait()

    async def _launch(self) -> None:
        run = self._run
        try:
            stdio = await self._open_stdio()
        except StartFailed as error:
            self._fail_start(error)
            self._begun.set()
            return
        except BaseException as error:
            self._fail_start(StartFailed(f"the run could not be started: {error!r}"))
            self._begun.set()
            raise
        run.stdin, run.terminal_fd = stdio.stdin_writer(), stdio.terminal_fd
        pump = Pump(run.log, stdio.outputs, on_first_output=self._first_output)
        pumping = self._tasks.spawn(pump.run(), f"pump of run {run.number}")
        request = start_request(run.spec, run.number, self._cwd, self._local_root, stdio)
        try:
            process = await self._born(request)
            run.started(process)
        except (CommandNotFound, CommandNotExecutable, StartFailed) as error:
            stdio.close_child_ends()
            await asyncio.wait([pumping])
            self._fail_start(error)
        except BaseException as error:
            stdio.close_child_ends()
            pumping.cancel()
            self._fail_start(StartFailed(f"the run could not be started: {error!r}"))
            raise
        else:
            stdio.close_child_ends()
            self._tasks.spawn(self._supervise(process, pump, pumping), f"run {run.number}")
            asyncio.get_running_loop().call_later(RECORD_AFTER_S, self._settle)
        finally:
            self._begun.set()

    async def _open_stdio(self) -> Stdio:
        """Raises StartFailed."""
        run = self._run
        pty = await self._spawner.open_pty(run.spec.container) if run.spec.tty else None
        try:
            if pty is not None:
                set_terminal_size(pty.master, *run.size)
            return Stdio.open(run.spec, pty)
        except OSError as error:  # most likely out of descriptors
            raise StartFailed(f"no pipe for it: {error.strerror}") from error

    async def _born(self, request: StartRequest) -> Process:
        run = self._run
        birth = await self._spawner.begin(request)
        if birth.forked and not (run.spec.stdin or run.spec.tty):
            run.start_kind, run.start_note = "zygote", birth.note
            self._begun.set()
        return await birth.process()

    def _settle(self) -> None:
        if self._run.live:
            write_record(self._run, self._directory)
        self._on_settled()

    def _first_output(self, time_ns: int) -> None:
        self._run.first_output_ns = time_ns
        self._run.touch()

    def _fail_start(self, error: DevloopError) -> None:
        match error:
            case CommandNotFound():
                code, failure = 127, StartFailure.NOT_FOUND
            case CommandNotExecutable():
                code, failure = 126, StartFailure.NOT_EXECUTABLE
            case _:
                code, failure = 255, StartFailure.OTHER
        end = RunEnd(exit_code=code, reason=str(error), start_failure=failure, detail=error.hint)
        self._finish(end)

    async def _supervise(self, process: Process, pump: Pump, pumping: asyncio.Task[None]) -> None:
        run = self._run
        if run.spec.lease_s > 0:
            self._tasks.spawn(end_unless_leased(run), f"lease of run {run.number}")
        exit_ = await process.wait()
        pump.finish()
        await asyncio.wait([pumping])  # whatever became of its output, the run has ended
        if why := process.witness():
            run.say(why)
        elif (
            exit_.signal == signal.SIGKILL
            and run.spec.container is not None
            and not run.stop_reason
        ):
            await _hear_of_its_container(run)
        self._finish(_describe_end(run, exit_))
        # With what this run has taught about its imports.
        await prepare(self._spawner, run.spec, self._cwd, self._local_root)

    def _finish(self, end: RunEnd) -> None:
        self._run.finish(end)
        write_record(self._run, self._directory)
        self._on_ended(self._run)


async def prepare(spawner: Spawner, spec: RunSpec, cwd: Path, local_root: bytes | None) -> None:
    """Warms what a run of `spec` would start from; says nothing when that fails."""
    with contextlib.suppress(DevloopError):
        await spawner.prepare(start_request(spec, 0, cwd, local_root))


def _describe_end(run: Run, exit_: Exit) -> RunEnd:
    wall_s = (time.time_ns() - run.started_ns) / 1e9
    reason = run.stop_reason or describe_exit(exit_.code, exit_.signal)
    kernel_line = "" if run.stop_reason else _out_of_memory(run.pid, exit_, wall_s)
    return RunEnd(
        exit_code=exit_.code,
        signal=exit_.signal,
        reason=f"{reason} (out of memory)" if kernel_line else reason,
        peak_memory_bytes=exit_.peak_memory_bytes,
        user_s=exit_.user_s,
        system_s=exit_.system_s,
        wall_s=wall_s,
        detail=kernel_line,
    )


async def _hear_of_its_container(run: Run) -> None:
    """Of a container that ends, the keeper says why; the kernel may have killed what ran in it
    before that is heard."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(run.place_ended.wait(), CONTAINER_SAYS_S)


def _out_of_memory(pid: int, exit_: Exit, wall_s: float) -> str:
    """The kernel's line; empty: it was something else. A shell says 137 of a child of its own,
    whose number we do not know."""
    if exit_.signal == signal.SIGKILL:
        return killed_line(pid, wall_s)
    return killed_line(0, wall_s) if exit_.code == 128 + signal.SIGKILL else ""
