"""The one line of a terminal that is drawn again and again: who else writes clears it first.

Owns what is known of the cursor on stderr's terminal. Knows neither what is drawn nor when. Where
stderr is no terminal, or one that cannot clear a line, nothing is ever drawn.
"""

from __future__ import annotations

import os
import sys

__all__ = ["StatusLine", "status_line"]

_CLEAR = "\r\x1b[K"


class StatusLine:
    """At most one line, which is the last thing on the screen while it is there."""

    def __init__(self) -> None:
        self.is_drawn = False
        self.is_raw = False  # while a program has the terminal: a line feed then only feeds
        self._is_at_start = True  # of a line: what a program has begun is not drawn over

    @property
    def can_draw(self) -> bool:
        return os.environ.get("TERM") != "dumb" and sys.stderr.isatty()

    def draw(self, text: str) -> None:
        if self._is_at_start:
            width = os.get_terminal_size(2).columns - 1  # the last column would wrap
            sys.stderr.write(_CLEAR + text[:width])
            sys.stderr.flush()
            self.is_drawn = True

    def clear(self) -> None:
        """Before anything else is written to the terminal."""
        if self.is_drawn:
            self.is_drawn = False
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()

    def write(self, lines: str) -> None:
        """Whole lines of ours, each from the left edge on."""
        self.clear()
        if self.is_raw and sys.stderr.isatty():
            lines = ("" if self._is_at_start else "\n") + lines
            lines = lines.replace("\n", "\r\n")
            self._is_at_start = True
        sys.stderr.write(lines)
        sys.stderr.flush()

    def make_way(self, data: bytes) -> None:
        """Before a program's output is written."""
        self.clear()
        self._is_at_start = data.endswith(b"\n")


status_line = StatusLine()  # there is one stderr
