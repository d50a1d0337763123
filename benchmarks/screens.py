"""`devloop up` in a terminal of its own, seen from outside: bytes that would draw a picture."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING

from .sandbox import Broken
from .watchers import LINE_TIMEOUT_S, SCRIPT, Watcher

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from .sandbox import Agent, Sandbox

__all__ = ["Screen", "ScreenWatcher"]

SIZE = (45, 160)  # rows, columns
KEPT_BYTES = 1 << 20


class Screen:
    """One process in a pseudo-terminal that somebody reads as fast as it comes."""

    def __init__(self, sandbox: Sandbox, agent: Agent, project: Path, *words: str) -> None:
        self._seen = b""
        self._news = threading.Condition()
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        env = {**agent.env, "TERM": "xterm-256color"}
        env.pop("CI", None)
        self._master = master
        self.began = time.perf_counter_ns()
        with os.fdopen(slave, "r+b", buffering=0) as terminal:
            self.process: subprocess.Popen[bytes] = sandbox.start(
                [agent.command, *words],
                cwd=project,
                env=env,
                stdin=terminal,
                stdout=terminal,
                stderr=terminal,
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # the other end has closed
                os.close(self._master)
                return
            with self._news:
                self._seen = (self._seen + data)[-KEPT_BYTES:]
                self._news.notify_all()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, words: bytes, timeout_s: float = LINE_TIMEOUT_S) -> int:
        """When they were drawn, in nanoseconds. Raises Broken."""
        with self._news:
            if self._news.wait_for(lambda: words in self._seen, timeout_s):
                return time.perf_counter_ns()
        raise Broken(f"the screen shows no {words.decode()} within {timeout_s:g} s")


class ScreenWatcher(Watcher):
    """The screen, as one more tool that runs a script again on each save."""

    screen: Screen

    def open(self, sandbox: Sandbox, agent: Agent) -> ScreenWatcher:
        """Returns after the first output."""
        token = self.write_next()
        self.screen = Screen(sandbox, agent, self.project, "up", "--", *SCRIPT)
        self._wait_for(token, LINE_TIMEOUT_S)
        return self

    def _wait_for(self, token: str, timeout_s: float) -> int:
        return self.screen.wait_for(token.encode(), timeout_s)
