"""Pseudo-terminals: opening, resizing, and how end of input is said on one."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from typing import NamedTuple

__all__ = ["Pty", "end_of_input", "open_pty", "set_terminal_size"]

_SIZE = struct.Struct("HHHH")
MAX_SIZE = 0xFFFF


class Pty(NamedTuple):
    """Two descriptors; whoever opened it closes both. The agent keeps `master`."""

    master: int
    slave: int


def open_pty(rows: int = 0, columns: int = 0) -> Pty:
    master, slave = os.openpty()
    set_terminal_size(master, rows, columns)
    return Pty(master, slave)


def set_terminal_size(fd: int, rows: int, columns: int) -> None:
    """Sets the size; the kernel sends SIGWINCH to the foreground processes when it changed."""
    size = _SIZE.pack(min(rows, MAX_SIZE), min(columns, MAX_SIZE), 0, 0)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, size)


def end_of_input(master: int, *, mid_line: bool) -> bytes:
    """What to type so that a reader of the terminal sees the end of its input.

    Within a line the first end-of-file character only hands over the line, the second one ends it.
    """
    attributes = termios.tcgetattr(master)
    character: bytes = attributes[6][termios.VEOF]
    return character * 2 if mid_line else character
