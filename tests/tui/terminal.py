"""A real terminal with `devloop up` in it: pyte draws what a person would see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING

import pyte

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.box import Box

TIMEOUT_S = 30.0
# What the screen may switch on, and each has to be off again.
MODES = {
    "alternate screen": b"\x1b[?1049",
    "mouse": b"\x1b[?1000",
    "mouse moves": b"\x1b[?1003",
    "mouse in SGR": b"\x1b[?1006",
    "focus": b"\x1b[?1004",
    "bracketed paste": b"\x1b[?2004",
}


class Screen(pyte.Screen):
    """Ignores what pyte does not know: private forms of SGR and of device reports."""

    def select_graphic_rendition(self, *attributes: int, private: bool = False) -> None:
        if not private:
            super().select_graphic_rendition(*attributes)

    def report_device_status(self, mode: int, **kwargs: bool) -> None:
        pass


class Terminal:
    def __init__(
        self, box: Box, project: Path, *words: str, rows: int = 24, columns: int = 80, **env: str
    ) -> None:
        self.master, self.slave = pty.openpty()
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
        self.before = termios.tcgetattr(self.slave)
        self.data = b""
        self._lock = threading.Lock()
        self._screen = Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.process: subprocess.Popen[bytes] = box.start(
            project,
            *words,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=box.env | {"TERM": "xterm-256color"} | env,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            with self._lock:
                self.data += data
                self._stream.feed(data)

    def type(self, text: str | bytes) -> None:
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    @property
    def text(self) -> str:
        with self._lock:
            return "\n".join(line.rstrip() for line in self._screen.display)

    def wait_for(self, words: str, *, timeout_s: float = TIMEOUT_S) -> str:
        """Until they are on the screen."""
        deadline = time.monotonic() + timeout_s
        while words not in (text := self.text):
            assert time.monotonic() < deadline, f"no {words!r} in:\n{text}"
            time.sleep(0.01)
        return text

    def wait_for_end(self, timeout_s: float = TIMEOUT_S) -> int:
        return self.process.wait(timeout_s)

    def assert_given_back(self) -> None:
        """Every mode that was switched on is off, and the line discipline is as before."""
        deadline = time.monotonic() + 5
        while self._modes_left() or termios.tcgetattr(self.slave) != self.before:
            assert time.monotonic() < deadline, (
                self._modes_left(),
                termios.tcgetattr(self.slave),
                self.before,
            )
            time.sleep(0.01)

    def _modes_left(self) -> list[str]:
        """Those of which the last word was "on"."""
        with self._lock:
            data = self.data
        left = [name for name, m in MODES.items() if data.rfind(m + b"h") > data.rfind(m + b"l")]
        is_hidden = data.rfind(b"\x1b[?25l") > data.rfind(b"\x1b[?25h")
        return left + ["hidden cursor"] * is_hidden

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.slave)
        self._reader.join(5)
        with contextlib.suppress(OSError):
            os.close(self.master)


@contextlib.contextmanager
def open_terminal(box: Box, project: Path, *words: str, **options: object) -> Iterator[Terminal]:
    terminal = Terminal(box, project, *words, **options)  # type: ignore[arg-type]
    try:
        yield terminal
    finally:
        terminal.close()
