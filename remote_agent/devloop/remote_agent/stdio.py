"""A run's standard streams: pipes or a terminal, the run's ends and the agent's.

Owns their making, and which end is whose to close. Refuses to know what goes through them: that is
for `pump.py` and `stdin.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .logs import LogStream
from .stdin import StdinWriter

if TYPE_CHECKING:
    from .run import RunSpec
    from .terminal import Pty

__all__ = ["Stdio"]


@dataclass(slots=True)
class Stdio:
    """The two ends of a run's standard streams.

    The pump closes `outputs`, the stdin writer `stdin_fd`, the run's end `terminal_fd`.
    """

    child_stdin: int
    child_stdout: int
    child_stderr: int
    outputs: dict[int, LogStream]
    stdin_fd: int | None
    terminal_fd: int | None = None

    @classmethod
    def open(cls, spec: RunSpec, pty: Pty | None) -> Stdio:
        """`pty`: the terminal, if it is to have one; it is closed with this. Raises OSError."""
        if pty is not None:
            master, slave = pty
            outputs = {master: LogStream.STDOUT}
            return cls(slave, slave, slave, outputs, os.dup(master), os.dup(master))
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        outputs = {out_read: LogStream.STDOUT, err_read: LogStream.STDERR}
        if spec.stdin:
            in_read, in_write = os.pipe()
            return cls(in_read, out_write, err_write, outputs, in_write)
        null = os.open(os.devnull, os.O_RDONLY)
        return cls(null, out_write, err_write, outputs, None)

    def close_child_ends(self) -> None:
        for fd in {self.child_stdin, self.child_stdout, self.child_stderr}:
            os.close(fd)

    def stdin_writer(self) -> StdinWriter | None:
        if self.stdin_fd is None:
            return None
        return StdinWriter(self.stdin_fd, is_tty=self.terminal_fd is not None)
