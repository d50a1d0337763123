"""A terminal with a program on it, as a person has: type into it, wait for what it shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import termios
from typing import TYPE_CHECKING

from .box import Tail

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from .box import Box


class Terminal:
    def __init__(self, box: Box, project: Path, words: tuple[str, ...]) -> None:
        self._master, slave = pty.openpty()
        self.resize(24, 80)
        self.process: subprocess.Popen[bytes] = box.start(
            project,
            *words,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # The slave becomes the controlling terminal, so that SIGWINCH finds its way.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._slave = slave
        self.screen = Tail(self)

    def fileno(self) -> int:
        return self._master

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._slave)[3] & termios.ICANON

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._slave)
        self.screen.wait_for_end()
        os.close(self._master)


@contextlib.contextmanager
def open_terminal(box: Box, project: Path, *words: str) -> Iterator[Terminal]:
    terminal = Terminal(box, project, words)
    try:
        yield terminal
    finally:
        terminal.close()
