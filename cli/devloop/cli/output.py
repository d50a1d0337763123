"""Writing a run's output to our own stdout and stderr, byte for byte.

Owns the one thread that may block on them: a reader that is slow, or never reads, keeps neither
the event loop from hearing Ctrl-C nor the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import select
import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from devloop.cafs.errors import DevloopError
from devloop.sync.model import LogStream

from .common import say
from .statusline import status_line

if TYPE_CHECKING:
    from devloop.sync.model import LogRecord, Run

__all__ = ["Output", "OutputFailed", "Sink", "StreamSink"]

PROMPT_BYTES = 4096  # POSIX: a pipe that polls writable takes PIPE_BUF bytes without blocking
_NAMES = {1: "standard output", 2: "standard error"}


class OutputFailed(DevloopError):
    """Our own stdout or stderr does not take the run's output."""

    hint = "the run was stopped; `devloop logs` prints what it has written so far"

    def __init__(self, fd: int, error: OSError) -> None:
        super().__init__(f"cannot write to {_NAMES[fd]}: {error.strerror}")


class Sink(Protocol):
    """Where a run's events go."""

    async def record(self, record: LogRecord) -> None: ...

    def state(self, run: Run) -> None: ...


class StreamSink:
    """stdout to stdout, stderr to stderr. `quiet`: nothing but what the program wrote."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._output = Output()

    async def record(self, record: LogRecord) -> None:
        match record.stream:
            case LogStream.STDOUT:
                await self._output.write(1, record.data)
            case LogStream.STDERR:
                await self._output.write(2, record.data)
            case LogStream.GAP if not self._quiet:
                say(
                    f"{record.dropped_bytes:,} bytes of output are missing here: "
                    "the log was at its size limit"
                )
            case LogStream.DEVLOOP if not self._quiet:
                say(record.data.decode(errors="replace").rstrip("\n"))

    def state(self, run: Run) -> None:
        pass


class _Job(NamedTuple):
    fd: int
    data: bytes
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class Output:
    """Writes in order. One write at a time; one that was cancelled may still be under way."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_busy = False

    async def write(self, fd: int, data: bytes) -> None:
        """Raises BrokenPipeError when nobody reads any more, OutputFailed for what else fails."""
        status_line.make_way(data)
        try:
            if self._is_busy or not _write_promptly(fd, data):
                await self._write_on_thread(fd, data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputFailed(fd, error) from error

    async def _write_on_thread(self, fd: int, data: bytes) -> None:
        if self._thread is None:
            # A daemon: the executor's threads are waited for when the interpreter ends.
            self._thread = threading.Thread(target=self._work, name="output", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._is_busy = True
        self._jobs.put(_Job(fd, data, loop, done))
        await done
        self._is_busy = False

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            failure: OSError | None = None
            try:
                _write_all(job.fd, job.data)
            except OSError as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                job.loop.call_soon_threadsafe(_finish, job.done, failure)


def _finish(done: asyncio.Future[None], failure: OSError | None) -> None:
    if done.done():
        return
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)


def _write_promptly(fd: int, data: bytes) -> bool:
    """Writes a little where that cannot block; False: nothing was written."""
    if len(data) > PROMPT_BYTES or not select.select([], [fd], [], 0)[1]:
        return False
    _write_all(fd, data)
    return True


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # our stdout is somebody's non-blocking descriptor
            select.select([], [fd], [])
