"""From a run's output descriptors into its log, on the event loop.

Owns the descriptors that it is given. Knows no process: it ends when nobody can write any more, or
when told to `finish`. One read a turn of the loop, so that a flooding run delays nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import time
from typing import TYPE_CHECKING

from .logs import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .logs import LogStream, RunLog

__all__ = ["Pump"]

PIPE_BYTES = 1 << 20
MIN_READ_BYTES = 16 << 10


class Pump:
    """Reads pipes or terminal masters to their end; each read becomes one record."""

    def __init__(
        self,
        log: RunLog,
        fds: Mapping[int, LogStream],
        *,
        on_first_output: Callable[[int], None] | None = None,
    ) -> None:
        """`on_first_output` hears the time in ns of the first byte of any of them, once."""
        self._log = log
        self._fds = dict(fds)
        self._on_first_output = on_first_output
        self._finishing = False
        self._idle: set[asyncio.Future[None]] = set()
        for fd in self._fds:
            os.set_blocking(fd, False)
            with contextlib.suppress(OSError):  # a terminal, or the user's pipe memory is used up
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    async def run(self) -> None:
        """Returns when every descriptor is at its end; closes them all, also when cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for fd, stream in self._fds.items():
                    tasks.create_task(self._follow(fd, stream))
        finally:
            for fd in self._fds:
                os.close(fd)
            self._fds.clear()

    def finish(self) -> None:
        """Reads what is there and then ends, even if a process left behind goes on writing."""
        self._finishing = True
        for future in self._idle:
            if not future.done():
                future.set_result(None)

    async def _follow(self, fd: int, stream: LogStream) -> None:
        size = MIN_READ_BYTES
        last_bytes = PIPE_BYTES  # to be read after `finish`: what a pipe can hold
        while last_bytes > 0:
            await self._log.ready()
            data = _read(fd, size)
            if data is None:
                if self._finishing:
                    return
                await self._readable(fd)
                continue
            if not data:
                return
            self._store(stream, data)
            if self._finishing:
                last_bytes -= len(data)
            if len(data) == size:  # more is waiting: others first, then a larger bite
                size = min(size * 4, MAX_RECORD_BYTES)
                await asyncio.sleep(0)
            else:
                size = MIN_READ_BYTES
                await self._pause(fd)

    async def _pause(self, fd: int) -> None:
        """A short read has most likely emptied the pipe, so asking again at once is waste."""
        if self._finishing:
            await asyncio.sleep(0)
        else:
            await self._readable(fd)

    def _store(self, stream: LogStream, data: bytes) -> None:
        time_ns = time.time_ns()
        self._log.append(stream, data, time_ns)
        if self._on_first_output is not None:
            self._on_first_output(time_ns)
            self._on_first_output = None

    async def _readable(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._idle.add(future)
        loop.add_reader(fd, _wake, future)
        try:
            await future
        finally:
            loop.remove_reader(fd)
            self._idle.discard(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _read(fd: int, size: int) -> bytes | None:
    """None: nothing now. Empty: the end, which a terminal's master announces as EIO."""
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno == errno.EIO:
            return b""
        raise
