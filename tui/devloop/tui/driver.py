"""Textual's driver, hardened: whatever comes from the terminal, it ends neither us nor our input.

Owns what is read from the terminal, and the silence while another program has it. Where
Textual 8.2 fails: bytes that are no UTF-8 (mouse reports of old terminals) end its input thread, a
terminal that has gone makes it spin, and frames are drawn over a program that the user was given.
"""

from __future__ import annotations

import os
import re
import select
from codecs import getincrementaldecoder
from typing import TYPE_CHECKING, Any

from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from textual.app import App
    from textual.message import Message

__all__ = ["InputBytes", "TerminalDriver", "events_in"]

POLL_S = 0.1  # after a key: a lone escape is told from the start of a sequence by time
QUIET_POLL_S = 5.0
QUIET_AFTER = 5  # polls without a key
READ_BYTES = 4096

# "ESC [ M" and three bytes of any value: the mouse, as terminals told it before 1006 (SGR).
_OLD_MOUSE = re.compile(rb"\x1b\[M[\x00-\xff]{3}", re.DOTALL)
_OLD_MOUSE_BEGUN = re.compile(rb"\x1b\[M[\x00-\xff]{0,2}\Z", re.DOTALL)


class InputBytes:
    """Bytes as they are read, in pieces of any size, to text that the parser can take."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")
        self._held = b""  # a report of the mouse that has only begun

    def feed(self, data: bytes) -> str:
        data = _OLD_MOUSE.sub(b"", self._held + data)
        begun = _OLD_MOUSE_BEGUN.search(data)
        self._held = data[begun.start() :] if begun else b""
        return self._decoder.decode(data[: len(data) - len(self._held)])


def events_in(parser: XTermParser, text: str) -> Iterator[Message]:
    """What the user did; also with no text, since time decides what a lone escape was."""
    if text:  # the parser takes an empty one for the end of all input
        yield from parser.feed(text)
    yield from parser.tick()


class TerminalDriver(LinuxDriver):
    """`on_gone` is called, on the input thread, when the terminal is no more."""

    on_gone: Callable[[], None] | None = None
    _is_lent = False
    _wake: tuple[int, int] | None = None  # a pipe that ends the input thread's wait

    def __init__(self, app: App[Any], *, size: tuple[int, int] | None = None, **more: bool) -> None:
        super().__init__(app, size=size, **more)
        self._size = size or self._get_terminal_size()

    def _get_terminal_size(self) -> tuple[int, int]:
        """The terminal's own: COLUMNS and LINES, where somebody has exported them, go before it in
        Textual, and stay as they are when the window changes."""
        try:
            columns, rows = os.get_terminal_size(self.fileno)
        except OSError:
            columns = rows = 0
        return columns or 80, rows or 24

    def run_input_thread(self) -> None:
        parser, text = XTermParser(self._debug), InputBytes()
        silent = 0
        while not self.exit_event.is_set():
            data = self._read(POLL_S if silent < QUIET_AFTER else QUIET_POLL_S)
            if data == b"":
                if self.on_gone is not None:
                    self.on_gone()
                return
            silent = silent + 1 if data is None else 0
            for event in events_in(parser, text.feed(data or b"")):
                self.process_message(event)

    def _read(self, timeout_s: float) -> bytes | None:
        """None: nothing came; empty: the terminal has gone."""
        assert self._wake is not None
        try:
            ready = select.select([self.fileno, self._wake[0]], [], [], timeout_s)[0]
            return os.read(self.fileno, READ_BYTES) if self.fileno in ready else None
        except OSError:
            return b""

    def start_application_mode(self) -> None:
        if self._wake is None:
            self._wake = os.pipe()
        super().start_application_mode()  # type: ignore[no-untyped-call] # Textual says no types

    def disable_input(self) -> None:
        """Waits for the input thread, which may be waiting for a key."""
        if self._wake is None:
            return
        os.write(self._wake[1], b"\0")
        super().disable_input()
        os.read(self._wake[0], 1)

    def write(self, data: str) -> None:
        """Nothing while the terminal is lent, or once nobody takes what is written."""
        writer = self._writer_thread
        if not self._is_lent and writer is not None and writer.is_alive():
            super().write(data)

    def close(self) -> None:
        """A writer that has died with the terminal takes no more: its queue may be full."""
        if self._writer_thread is not None and self._writer_thread.is_alive():
            super().close()
        wake, self._wake = self._wake, None
        for end in wake or ():
            os.close(end)

    def suspend_application_mode(self) -> None:
        super().suspend_application_mode()
        self._is_lent = True

    def resume_application_mode(self) -> None:
        self._is_lent = False
        super().resume_application_mode()
