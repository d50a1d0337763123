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
from typing import TYPE_CHECKING, Any, NamedTuple

from devloop.cafs.errors import DevloopError
from devloop.sync.agent_errors import AgentGone
from devloop.sync.model import LogRecord, Run, StdinAck
from devloop.sync.resume import ResumingAttachment

from .common import say
from .errors import report_error
from .output import OutputFailed
from .statusline import status_line

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from devloop.sync.target import Connection

    from .output import Sink

__all__ = ["Outcome", "attach_to_run", "report_end", "terminal_size"]

READ_BYTES = 64 << 10
STDIN_WINDOW_BYTES = 1 << 20
LAST_OUTPUT_S = 0.5  # for what is on its way when Ctrl-C has ended the run
ASK_S = 0.1
CTRL_C = b"\x03"


class Outcome(NamedTuple):
    """How an attachment ended. `run` is None when a second Ctrl-C did not wait for its end."""

    run: Run | None
    is_complete: bool = True  # all output was handed on
    was_killed: bool = False  # by a second Ctrl-C
    left_by: int | None = None  # the status of who has only detached

    @property
    def status(self) -> int:
        if self.left_by is not None:
            return self.left_by
        if self.run is None or (self.was_killed and self.run.end.signal == signal.SIGKILL):
            return 128 + signal.SIGINT
        return self.run.end.status


async def attach_to_run(
    connection: Connection,
    workspace_id: str,
    number: int,
    sink: Sink,
    *,
    stdin: bool,
    is_tty: bool,
    owner: str = "",
    is_guest: bool = False,
    is_shell: bool = False,
) -> Outcome:
    """Until the run has ended, over lost links. Raises AgentGone, BrokenPipeError, OutputFailed.

    A guest did not start the run: its own end, and that of its streams, only detaches it. Shells
    ignore SIGTERM: for them it is a hang-up.
    """
    told = LostLink(number)
    attachment = ResumingAttachment(
        connection, workspace_id, number, stdin=stdin, owner=owner, on_lost=told.on_lost
    )
    attached = _Attached(workspace_id, number, attachment, is_tty, is_guest, is_shell)
    with attached.signals(), attached.terminal:
        try:
            return await attached.until_end(sink, told)
        except OutputFailed as error:
            if is_guest:
                raise DevloopError(str(error), hint="the run goes on without us") from error
            await connection.client.stop_run(workspace_id, number)
            raise
        except BrokenPipeError:
            if not is_guest:
                await connection.client.stop_run(workspace_id, number)
            raise


def report_end(run: Run) -> None:
    """Why the command never ran, or was lost: what its exit code alone does not tell."""
    end = run.end
    if end.start_failed:
        report_error(DevloopError(end.reason, hint=end.detail), sys.stderr)
    elif end.cause and end.status == DevloopError.exit_code:
        hint = f"start it again; `devloop logs {run.number}` prints what it has written"
        report_error(DevloopError(f"run {run.number}: {end.cause}", hint=hint), sys.stderr)


class LostLink:
    """Tells of a lost link, and that it is back; each reason once."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._reason = ""

    def on_lost(self, reason: str, delay_s: float) -> None:
        if reason != self._reason:
            self._reason = reason
            say(f"{reason}; run {self._number} may go on there, trying to reach it again")

    def on_event(self) -> None:
        if self._reason:
            self._reason = ""
            say("connected again")

    @property
    def is_lost(self) -> bool:
        return bool(self._reason)


class _Attached:
    def __init__(
        self,
        workspace_id: str,
        number: int,
        attachment: ResumingAttachment,
        is_tty: bool,
        is_guest: bool,
        is_shell: bool,
    ) -> None:
        self._is_tty = is_tty
        self._is_shell = is_shell
        self._is_guest = is_guest
        self.terminal = contextlib.ExitStack()  # raw, once this client may type into the run
        self._left: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._has_input: bool | None = None  # None: the agent has not said yet
        self._workspace_id = workspace_id
        self._number = number
        self._attachment = attachment
        self._interrupted = {1: asyncio.Event(), 2: asyncio.Event()}
        self._tasks: set[asyncio.Task[object]] = set()
        self._acked_bytes = 0
        self._acked = asyncio.Event()
        self._link: LostLink | None = None

    async def until_end(self, sink: Sink, link: LostLink) -> Outcome:
        """Ctrl-C ends this soon, however much of the output our reader has not taken yet."""
        self._link = link
        following = asyncio.create_task(self._follow(sink, link))
        others = [asyncio.create_task(self._end_after(n, link)) for n in (1, 2)]
        try:
            watched: list[asyncio.Future[Any]] = [following, *others, self._left]
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if self._left.done():
                return Outcome(None, is_complete=False, left_by=self._left.result())
            if following.done():
                return Outcome(following.result(), was_killed=self._interrupted[2].is_set())
            run = next(task.result() for task in others if task.done())
            return Outcome(run, is_complete=False)
        finally:
            for task in (following, *others):
                task.cancel()
            await asyncio.wait([following, *others])

    async def _end_after(self, interrupts: int, link: LostLink) -> Run | None:
        await self._interrupted[interrupts].wait()
        run, is_heard = None, not link.is_lost
        if interrupts == 1:
            run = await self._attachment.ended_run(ASK_S)
            await asyncio.sleep(LAST_OUTPUT_S)
        else:
            is_heard = await self._kill() and is_heard
        if run is not None:
            say(f"more was written than was read; `devloop logs {run.number}` prints it")
        elif not (is_heard or self._attachment.is_local):
            number = self._number
            say(f"run {number} could not be stopped; `devloop stop {number}` does once it is back")
        return run

    async def _kill(self) -> bool:
        """Whether the agent has said that it did. Not waited for: a run whose output nobody reads
        ends when we are gone."""
        killing = asyncio.create_task(
            self._attachment.client.stop_run(self._workspace_id, self._number, kill=True)
        )
        self._spawn(_result_of(killing))
        await asyncio.sleep(LAST_OUTPUT_S)
        return killing.done() and killing.exception() is None

    async def _follow(self, sink: Sink, link: LostLink) -> Run:
        async for event in self._attachment:
            link.on_event()
            match event:
                case LogRecord():
                    await sink.record(event)
                case StdinAck():
                    self._take_ack(event)
                case Run():
                    sink.state(event)
                    if not event.live:
                        return event
        raise AgentGone("the agent has ended")

    def _take_ack(self, ack: StdinAck) -> None:
        self._acked_bytes = sys.maxsize if ack.closed else ack.received_bytes
        self._acked.set()
        if self._has_input is None:
            self._has_input = not (ack.closed or ack.held)
            self._greet(ack)
            if self._has_input:
                self._begin_input(ack.received_bytes)

    def _greet(self, ack: StdinAck) -> None:
        """Before the terminal is raw: a line would not start at its left edge."""
        if ack.held:
            say("another client types into this run: this one only reads")
        elif ack.closed and self._is_guest:
            say("this run takes no input")
        if self._is_guest:
            keys = "Enter ~." if self._is_tty and self._has_input else "Ctrl-\\"
            say(f"attached; Ctrl-C interrupts the run, {keys} detaches")

    def _begin_input(self, offset: int) -> None:
        if self._is_tty:
            self.terminal.enter_context(raw_terminal())
            self.resize()  # it may have been started from another terminal
        self.start_stdin(offset)

    # -- signals

    def _leave(self, status: int) -> None:
        if not self._left.done():
            self._left.set_result(status)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM are the program's; with a terminal, Ctrl-C travels as a byte.

        What ends a guest only detaches it: SIGINT alone is the program's then.
        """
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGINT: self._interrupt,
            signal.SIGTERM: lambda: self._forward(signal.SIGTERM),
            signal.SIGHUP: self._stop,
        }
        if self._is_shell:
            handlers[signal.SIGTERM] = self._stop
        if self._is_guest:
            handlers[signal.SIGHUP] = lambda: self._leave(128 + signal.SIGHUP)
            handlers[signal.SIGTERM] = lambda: self._leave(128 + signal.SIGTERM)
            handlers[signal.SIGQUIT] = lambda: self._leave(0)
        if self._is_tty:
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
            if self._link is not None and self._link.is_lost:
                say(f"run {self._number} cannot be reached now; Ctrl-C again to leave it there")
            self._forward(signal.SIGINT)
        else:
            self._interrupted[2].set()

    def _stop(self) -> None:
        self._spawn(self._attachment.client.stop_run(self._workspace_id, self._number))

    def _forward(self, number: int) -> None:
        self._spawn(self._attachment.signal(number))

    def resize(self) -> None:
        if not self._has_input:
            return
        rows, columns = terminal_size()
        self._spawn(self._attachment.resize(rows, columns))

    def _spawn(self, work: Coroutine[object, object, object]) -> None:
        task = asyncio.create_task(_unless_ended(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- stdin

    def start_stdin(self, offset: int) -> None:
        """A daemon thread reads: a terminal or pipe may never answer, a file cannot be polled."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[bytes] = asyncio.Queue()
        room = threading.Semaphore(STDIN_WINDOW_BYTES // READ_BYTES)

        def take(data: bytes) -> None:
            if self._is_tty and self._link is not None and self._link.is_lost:
                for _ in range(data.count(CTRL_C)):  # nobody else can be asked to end it
                    self._interrupt()
            pieces.put_nowait(data)

        def read() -> None:
            data = b"-"
            while data:
                room.acquire()
                try:
                    data = os.read(0, READ_BYTES)
                except OSError:
                    data = b""
                try:
                    loop.call_soon_threadsafe(take, data)
                except RuntimeError:  # the run has ended, and the loop with it
                    return

        threading.Thread(target=read, name="stdin", daemon=True).start()
        self._spawn(self._send_stdin(pieces, room, offset))

    async def _send_stdin(
        self, pieces: asyncio.Queue[bytes], room: threading.Semaphore, offset: int
    ) -> None:
        escape = Escape() if self._is_guest and self._is_tty else None
        while data := await pieces.get():
            room.release()
            if escape is not None:
                data = escape.feed(data)
            while offset - self._acked_bytes > STDIN_WINDOW_BYTES:
                self._acked.clear()
                await self._acked.wait()
            if data:
                await self._attachment.send_stdin(offset, data)
            offset += len(data)
            if escape is not None and escape.found:
                self._leave(0)
                return
        if self._is_guest:  # the end of its input is not that of the run's
            return
        if self._is_tty:  # it has gone: a terminal that is there says no end
            self._stop()
        else:
            await self._attachment.send_stdin(offset, b"", eof=True)


class Escape:
    """Finds `~.` at the start of a line, as ssh does; `~~` stands for one `~`."""

    def __init__(self) -> None:
        self.found = False
        self._is_line_start = True
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What is the program's; nothing after the escape."""
        kept = bytearray()
        for key in (data[i : i + 1] for i in range(len(data))):
            if self._held and key == b".":
                self.found = True
                break
            if self._held and key != b"~":
                kept += self._held
            was_held, self._held = self._held, b""
            if key == b"~" and self._is_line_start and not was_held:
                self._held = key
                continue
            kept += key
            self._is_line_start = key in (b"\r", b"\n")
        return bytes(kept)


async def _result_of(task: asyncio.Task[object]) -> None:
    await task


async def _unless_ended(work: Coroutine[object, object, object]) -> None:
    """What cannot be handed to the run any more is dropped: `_follow` hears why."""
    with contextlib.suppress(DevloopError):
        await work


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Keys go to the program as they are typed; the terminal is put back whatever happens."""
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is the program's
    status_line.is_raw = True
    try:
        yield
    finally:
        status_line.is_raw = False
        with contextlib.suppress(termios.error):  # the terminal was closed
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def terminal_size() -> tuple[int, int]:
    """(rows, columns) of the terminal on stdout."""
    size = os.get_terminal_size(1)
    return size.lines, size.columns
