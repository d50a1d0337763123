"""One run, attached: its output here, and stdin, terminal size and signals there.

A slow reader of ours slows the program, as a pipe would; it never stops this process from hearing
Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import threading
import tty
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.errors import DevloopError
from devloop.sync.client import AgentGone
from devloop.sync.model import LogRecord, Run, StdinAck

from .common import say
from .output import OutputFailed

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from devloop.sync.client import AgentClient, Attachment

    from .output import Sink

__all__ = ["Outcome", "attach_to_run", "terminal_size"]

READ_BYTES = 64 << 10
STDIN_WINDOW_BYTES = 1 << 20
LAST_OUTPUT_S = 0.5  # for what is on its way when Ctrl-C has ended the run
ASK_S = 0.1


class Outcome(NamedTuple):
    """How an attachment ended. `run` is None when a second Ctrl-C did not wait for its end."""

    run: Run | None
    is_complete: bool = True  # all output was handed on
    was_killed: bool = False  # by a second Ctrl-C

    @property
    def status(self) -> int:
        if self.run is None or (self.was_killed and self.run.end.signal == signal.SIGKILL):
            return 128 + signal.SIGINT
        return self.run.end.status


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
) -> Outcome:
    """Until the run has ended. Raises AgentGone, BrokenPipeError, OutputFailed."""
    async with client.attach(
        workspace_id, number, from_record=from_record, lossless=True, holds_lease=holds_lease
    ) as attachment:
        attached = _Attached(client, workspace_id, number, attachment)
        with attached.signals(is_tty=is_tty), raw_terminal(enabled=is_tty):
            if is_tty:
                attached.resize()  # it may have been started from another terminal
            if stdin:
                attached.start_stdin()
            try:
                return await attached.until_end(sink)
            except (BrokenPipeError, OutputFailed):
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
        self._interrupted = {1: asyncio.Event(), 2: asyncio.Event()}
        self._tasks: set[asyncio.Task[object]] = set()
        self._acked_bytes = 0
        self._acked = asyncio.Event()

    async def until_end(self, sink: Sink) -> Outcome:
        """Ctrl-C ends this soon, however much of the output our reader has not taken yet."""
        following = asyncio.create_task(self._follow(sink))
        others = [asyncio.create_task(self._end_after(n)) for n in (1, 2)]
        try:
            await asyncio.wait([following, *others], return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                return Outcome(following.result(), was_killed=self._interrupted[2].is_set())
            run = next(task.result() for task in others if task.done())
            return Outcome(run, is_complete=False)
        finally:
            for task in (following, *others):
                task.cancel()
            await asyncio.wait([following, *others])

    async def _end_after(self, interrupts: int) -> Run | None:
        await self._interrupted[interrupts].wait()
        run = await (self._ended_run() if interrupts == 1 else self._kill())
        await asyncio.sleep(LAST_OUTPUT_S)
        if run is not None:
            say(f"more was written than was read; `devloop logs {run.number}` prints it")
        return run

    async def _ended_run(self) -> Run:
        """Asks, since what is attached hears of the end only after all of the output."""
        while True:
            for run in await self._client.list_runs(self._workspace_id):
                if run.number == self._number and not run.live:
                    return run
            await asyncio.sleep(ASK_S)

    async def _kill(self) -> None:
        """Not waited for: a run whose output nobody reads ends when we are gone."""
        self._spawn(self._client.stop_run(self._workspace_id, self._number, kill=True))

    async def _follow(self, sink: Sink) -> Run:
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
        raise AgentGone("the agent has ended")

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
            handlers[signal.SIGWINCH] = self.resize
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _interrupt(self) -> None:
        """The first is the program's to handle; a second one ends it."""
        if not self._interrupted[1].is_set():
            self._interrupted[1].set()
            self._forward(signal.SIGINT)
        else:
            self._interrupted[2].set()

    def _stop(self) -> None:
        self._spawn(self._client.stop_run(self._workspace_id, self._number))

    def _forward(self, number: int) -> None:
        self._spawn(self._attachment.signal(number))

    def resize(self) -> None:
        rows, columns = terminal_size()
        self._spawn(self._attachment.resize(rows, columns))

    def _spawn(self, work: Coroutine[object, object, object]) -> None:
        task = asyncio.create_task(_unless_ended(work))
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


async def _unless_ended(work: Coroutine[object, object, object]) -> None:
    """What cannot be handed to the run any more is dropped: `_follow` hears why."""
    with contextlib.suppress(DevloopError):
        await work


@contextlib.contextmanager
def raw_terminal(*, enabled: bool) -> Iterator[None]:
    """Keys go to the program as they are typed; the terminal is put back whatever happens."""
    if not enabled:
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is the program's
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def terminal_size() -> tuple[int, int]:
    """(rows, columns) of the terminal on stdout."""
    size = os.get_terminal_size(1)
    return size.lines, size.columns
