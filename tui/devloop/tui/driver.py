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
from typing import TYPE_CHECKING

from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["InputBytes", "TerminalDriver"]

POLL_S = 0.1
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


class TerminalDriver(LinuxDriver):
    """`on_gone` is called, on the input thread, when the terminal is no more."""

    on_gone: Callable[[], None] | None = None
    _is_lent = False

    def run_input_thread(self) -> None:
        parser, text = XTermParser(self._debug), InputBytes()
        while not self.exit_event.is_set():
            try:
                is_ready = bool(select.select([self.fileno], [], [], POLL_S)[0])
                data = os.read(self.fileno, READ_BYTES) if is_ready else None
            except OSError:
                data = b""
            if data == b"":
                if self.on_gone is not None:
                    self.on_gone()
                return
            for event in parser.feed(text.feed(data)) if data else ():
                self.process_message(event)
            for event in parser.tick():
                self.process_message(event)

    def write(self, data: str) -> None:
        """Nothing while the terminal is lent, or once nobody takes what is written."""
        writer = self._writer_thread
        if not self._is_lent and writer is not None and writer.is_alive():
            super().write(data)

    def close(self) -> None:
        """A writer that has died with the terminal takes no more: its queue may be full."""
        if self._writer_thread is not None and self._writer_thread.is_alive():
            super().close()

    def suspend_application_mode(self) -> None:
        super().suspend_application_mode()
        self._is_lent = True

    def resume_application_mode(self) -> None:
        self._is_lent = False
        super().resume_application_mode()
