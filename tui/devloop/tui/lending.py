"""The terminal lent to other programs: shell, debugger, editor, pager. Sync and logs go on.

Owns who has the terminal, and that nobody keeps it after us. What is run is decided elsewhere
(`programs.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
from typing import TYPE_CHECKING, Any

from textual.app import SuspendNotSupported

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from textual.app import App

    from .programs import Program

__all__ = ["GROUP", "Lender"]

GROUP = "terminal"  # of workers: cancelled, they hang up whoever has the terminal
HANG_UP_S = 2.0
STDIN = 0


class Lender:
    """`on_back` is called when the terminal is the screen's again."""

    def __init__(self, app: App[None], on_back: Callable[[], None]) -> None:
        self._app = app
        self._on_back = on_back
        self._is_read = asyncio.Event()  # what was held
        self.is_lent = False

    def start(self, program: Program) -> None:
        self._app.run_worker(self.run(program), group=GROUP, exclusive=True)

    def interrupted(self) -> None:
        """By a Ctrl-C that was meant for the program."""
        self._is_read.set()

    async def run(self, program: Program) -> None:
        """Until the program has ended. An awaited process: the event loop goes on."""
        try:
            with self.lent():
                if await _run(program) in program.held_codes:
                    await self._hold()
        except SuspendNotSupported:
            self._app.notify("this terminal cannot be lent", severity="warning")
        except OSError as error:
            words = f"{program.argv[0]}: {error.strerror}"
            self._app.notify(words, severity="error", markup=False)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """The terminal is another program's, and the screen's again whatever ends that."""
        suspended = self._app.suspend()
        suspended.__enter__()
        before = _line_discipline()
        self.is_lent = True
        try:
            yield
        finally:
            self.is_lent = False
            _restore(before)
            # Told of an error, it would leave the terminal as it is.
            suspended.__exit__(None, None, None)
            self._app.refresh(layout=True)
            self._on_back()

    async def _hold(self) -> None:
        """Until a line is typed."""
        sys.stdout.write("Enter comes back ")
        sys.stdout.flush()
        self._is_read.clear()
        loop = asyncio.get_running_loop()
        loop.add_reader(STDIN, self._take_line)
        try:
            await self._is_read.wait()
        finally:
            loop.remove_reader(STDIN)

    def _take_line(self) -> None:
        with contextlib.suppress(OSError):
            os.read(STDIN, 4096)
        self._is_read.set()


def _line_discipline() -> list[Any] | None:
    """None: there is no terminal, or not any more."""
    try:
        return termios.tcgetattr(STDIN)
    except termios.error:
        return None


def _restore(before: list[Any] | None) -> None:
    """Of a program that was killed while it had its own."""
    if before is not None:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(STDIN, termios.TCSADRAIN, before)


async def _run(program: Program) -> int:
    """Its exit code. Who is still there at the end is hung up, as by a terminal that has gone."""
    started: list[Process] = []
    try:
        with contextlib.ExitStack() as ends:
            source = None
            if program.fed_by:
                source = await _feeder(program.fed_by, started, ends)
            started.append(await asyncio.create_subprocess_exec(*program.argv, stdin=source))
        return await started[-1].wait()
    finally:
        await _hang_up(started)


async def _feeder(argv: Sequence[str], started: list[Process], ends: contextlib.ExitStack) -> int:
    """The descriptor that its output is read from."""
    source, sink = os.pipe()
    ends.callback(os.close, source)
    ends.callback(os.close, sink)
    nothing = asyncio.subprocess.DEVNULL
    started.append(
        await asyncio.create_subprocess_exec(*argv, stdin=nothing, stdout=sink, stderr=sink)
    )
    return source


async def _hang_up(processes: Iterable[Process]) -> None:
    alive = [process for process in processes if process.returncode is None]
    for process in alive:
        process.send_signal(signal.SIGHUP)
    for process in alive:
        try:
            async with asyncio.timeout(HANG_UP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
