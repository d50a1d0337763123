"""A run's standard input: bytes that arrive by offset, written as fast as the program reads.

Owns its descriptor. Knows no protocol; what a reconnecting client sends again is dropped here.
"""

from __future__ import annotations

import asyncio
import os

from devloop.cafs.errors import DevloopError

from .bell import Bell
from .terminal import end_of_input

__all__ = ["StdinGap", "StdinWriter"]

BUFFER_BYTES = 1 << 20
WRITE_BYTES = 64 << 10


class StdinGap(DevloopError):
    """The client sent input from beyond what was received."""

    hint = "attach again: input resumes where the agent says that it stopped"


class StdinWriter:
    """Writes to a pipe or to a terminal's master without blocking the event loop."""

    def __init__(self, fd: int, *, is_tty: bool = False) -> None:
        os.set_blocking(fd, False)
        self.received_bytes = 0
        self.closed = False  # the program no longer reads, or the end was written
        self._holder: object | None = None
        self._fd = fd
        self._is_tty = is_tty
        self._buffer = bytearray()
        self._ended = False  # no more will be received
        self._mid_line = False
        self._waiting_for_fd = False
        self._moved = Bell()

    @property
    def is_over(self) -> bool:
        """Nothing that is sent from now on would reach the program."""
        return self.closed or self._ended

    def hold(self, holder: object) -> bool:
        """One at a time: the bytes of two clients have no common order. False: another has it."""
        if self._holder is None:
            self._holder = holder
        return self._holder is holder

    def release(self, holder: object) -> None:
        """For the next one, who goes on from `received_bytes`."""
        if self._holder is holder:
            self._holder = None

    async def write(self, offset: int, data: bytes) -> int:
        """Takes `data`, whose first byte is number `offset` of the whole input.

        Returns how many bytes were received so far; waits while too many are not yet read.
        Raises StdinGap when bytes before `offset` are missing.
        """
        if offset > self.received_bytes:
            missing = offset - self.received_bytes
            raise StdinGap(f"standard input lacks {missing} bytes before byte {offset}")
        fresh = data[self.received_bytes - offset :]
        self.received_bytes += len(fresh)
        if self.closed or self._ended or not fresh:
            return self.received_bytes
        self._buffer += fresh
        self._mid_line = not fresh.endswith(b"\n")
        self._flush()
        while len(self._buffer) > BUFFER_BYTES and not self.closed:
            await self._moved.wait()
        return self.received_bytes

    def end(self) -> None:
        """The input is complete: the program sees its end after what was written."""
        if self.closed or self._ended:
            return
        self._ended = True
        if self._is_tty:
            self._buffer += end_of_input(self._fd, mid_line=self._mid_line)
        self._flush()

    def close(self) -> None:
        """Gives up what was not yet written."""
        if self.closed:
            return
        self.closed = True
        self._buffer.clear()
        self._stop_waiting()
        os.close(self._fd)
        self._moved.ring()

    def _flush(self) -> None:
        try:
            while self._buffer:
                written = os.write(self._fd, self._buffer[:WRITE_BYTES])
                del self._buffer[:written]
        except BlockingIOError:
            self._wait_for_fd()
        except OSError:  # EPIPE, or EIO of a terminal: nobody reads any more
            self.close()
        else:
            self._stop_waiting()
            if self._ended:
                self.close()
        self._moved.ring()

    def _wait_for_fd(self) -> None:
        if not self._waiting_for_fd:
            asyncio.get_running_loop().add_writer(self._fd, self._flush)
            self._waiting_for_fd = True

    def _stop_waiting(self) -> None:
        if self._waiting_for_fd:
            asyncio.get_running_loop().remove_writer(self._fd)
            self._waiting_for_fd = False
