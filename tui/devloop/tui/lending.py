"""The terminal lent to other programs: shell, debugger, editor, pager. Sync and logs go on.

Owns who has the terminal. What is run is decided elsewhere (`programs.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from textual.app import SuspendNotSupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from textual.app import App

__all__ = ["Lender"]


class Lender:
    """`on_back` is called when the terminal is the screen's again."""

    def __init__(self, app: App[None], on_back: Callable[[], None]) -> None:
        self._app = app
        self._on_back = on_back
        self.is_lent = False

    def start(self, argv: Sequence[str]) -> None:
        self._app.run_worker(self.run(argv), group="terminal", exclusive=True)

    async def run(self, argv: Sequence[str]) -> None:
        """Until the program has ended. An awaited process: the event loop goes on."""
        try:
            with self.lent():
                process = await asyncio.create_subprocess_exec(*argv)
                await process.wait()
        except SuspendNotSupported:
            self._app.notify("this terminal cannot be lent", severity="warning")
        except OSError as error:
            words = f"{argv[0]}: {error.strerror}"
            self._app.notify(words, severity="error", markup=False)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """The terminal is another program's, and the screen's again whatever ends that."""
        suspended = self._app.suspend()
        suspended.__enter__()
        self.is_lent = True
        try:
            yield
        finally:
            self.is_lent = False
            # Told of an error, it would leave the terminal as it is.
            suspended.__exit__(None, None, None)
            self._app.refresh(layout=True)
            self._on_back()
