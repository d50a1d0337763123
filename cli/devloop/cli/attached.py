"""One run, attached: its output here, and stdin, terminal size and signals there.

Output is written as it came, byte for byte. A slow reader of ours slows the program, as a pipe
would; it never stops this process from hearing Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
import termios
import threading
import tty
from typing import TYPE_CHECKING, Protocol

from devloop.sync.model import LogRecord, LogStream, Run, StdinAck

from .common import say

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from devloop.sync.client import AgentClient, Attachment

__all__ = ["Sink", "StreamSink", "attach_to_run", "terminal_size"]

READ_BYTES = 64 << 10
PROMPT_BYTES = 4096  # POSIX: a pipe that polls writable takes PIPE_BUF bytes without blocking
STDIN_WINDOW_BYTES = 1 << 20


class Sink(Protocol):
    """Where a run's events go."""

    async def record(self, record: LogRecord) -> None: ...

    def state(self, run: Run) -> None: ...


class StreamSink:
    """stdout to stdout, stderr to stderr."""

    async def record(self, record: LogRecord) -> None:
        match record.stream:
            case LogStream.STDOUT:
                await write_all(1, record.data)
            case LogStream.STDERR:
                await write_all(2, record.data)
            case LogStream.GAP:
                say(
                    f"{record.dropped_bytes:,} bytes of output are missing here: "
                    "the log was at its size limit"
                )
            case LogStream.DEVLOOP:
                say(record.data.decode(errors="replace").rstrip("\n"))

    def state(self, run: Run) -> None:
        pass


async def write_all(fd: int, data: bytes) -> None:
    """Raises BrokenPipeError when nobody reads."""
    if len(data) <= PROMPT_BYTES and select.select([], [fd], [], 0)[1]:
        os.write(fd, data)
    else:
        await asyncio.to_thread(_write_blocking, fd, data)


def _write_blocking(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # our stdout is somebody's non-blocking descriptor
            select.select([], [fd], [])


async def attach_to_run(
    client: AgentClient,
    workspace_id: str,
    number: int,
    sink: Sink,
    *,
    stdin: bool,
    is_tty: bool,
    holds_lease: bool = True,
    from_record: int = 0,
) -> Run:
    """Until the run has ended; returns it. Raises AgentGone, BrokenPipeError."""
    async with client.attach(
        workspace_id, number, from_record=from_record, lossless=True, holds_lease=holds_lease
    ) as attachment:
        attached = _Attached(client, workspace_id, number, attachment)
        with attached.signals(is_tty=is_tty), raw_terminal(enabled=is_tty):
            if stdin:
                attached.start_stdin()
            try:
                return await attached.follow(sink)
            except BrokenPipeError:
                await client.stop_run(workspace_id, number)
                raise


class _Attached:
    def __init__(
        self, client: AgentClient, workspace_id: str, number: int, attachment: Attachment
    ) -> None:
        self._client = client
        self._workspace_id = workspace_id
        self._number = number
        self._attachment = attachment
        self._interrupts = 0
        self._tasks: set[asyncio.Task[object]] = set()
        self._acked_bytes = 0
        self._acked = asyncio.Event()

    async def follow(self, sink: Sink) -> Run:
        async for event in self._attachment:
            match event:
                case LogRecord():
                    await sink.record(event)
                case StdinAck(received_bytes, closed):
                    self._acked_bytes = sys.maxsize if closed else received_bytes
                    self._acked.set()
                case Run():
                    sink.state(event)
                    if not event.live:
                        return event
        raise AssertionError("an attachment ends with the run's end, or raises")

    # -- signals

    @contextlib.contextmanager
    def signals(self, *, is_tty: bool) -> Iterator[None]:
        """SIGINT and SIGTERM are the program's; with a terminal, Ctrl-C travels as a byte."""
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGINT: self._interrupt,
            signal.SIGTERM: lambda: self._forward(signal.SIGTERM),
            signal.SIGHUP: self._stop,
        }
        if is_tty:
            handlers[signal.SIGWINCH] = self._resize
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _interrupt(self) -> None:
        """The first is the program's to handle; a second one ends it."""
        self._interrupts += 1
        if self._interrupts == 1:
            self._forward(signal.SIGINT)
        else:
            self._spawn(self._client.stop_run(self._workspace_id, self._number, kill=True))

    def _stop(self) -> None:
        self._spawn(self._client.stop_run(self._workspace_id, self._number))

    def _forward(self, number: int) -> None:
        self._spawn(self._attachment.signal(number))

    def _resize(self) -> None:
        rows, columns = terminal_size()
        self._spawn(self._attachment.resize(rows, columns))

    def _spawn(self, work: Coroutine[object, object, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- stdin

    def start_stdin(self) -> None:
        """A daemon thread reads: a terminal or pipe may never answer, a file cannot be polled."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[bytes] = asyncio.Queue()
        room = threading.Semaphore(STDIN_WINDOW_BYTES // READ_BYTES)

        def read() -> None:
            data = b"-"
            while data:
                room.acquire()
                try:
                    data = os.read(0, READ_BYTES)
                except OSError:
                    data = b""
                try:
                    loop.call_soon_threadsafe(pieces.put_nowait, data)
                except RuntimeError:  # the run has ended, and the loop with it
                    return

        threading.Thread(target=read, name="stdin", daemon=True).start()
        self._spawn(self._send_stdin(pieces, room))

    async def _send_stdin(self, pieces: asyncio.Queue[bytes], room: threading.Semaphore) -> None:
        offset = 0
        while data := await pieces.get():
            while offset - self._acked_bytes > STDIN_WINDOW_BYTES:
                self._acked.clear()
                await self._acked.wait()
            await self._attachment.send_stdin(offset, data)
            offset += len(data)
            room.release()
        await self._attachment.send_stdin(offset, b"", eof=True)


@contextlib.contextmanager
def raw_terminal(*, enabled: bool) -> Iterator[None]:
    """Keys go to the program as they are typed; the terminal is put back whatever happens."""
    if not enabled:
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def terminal_size() -> tuple[int, int]:
    """(rows, columns) of the terminal on stdout."""
    size = os.get_terminal_size(1)
    return size.lines, size.columns
