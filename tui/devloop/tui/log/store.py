"""The lines of all runs, bounded: text as UTF-8 in blocks, what is known of each in arrays beside.

A line's number counts from the first one ever and never changes, also once older lines were
dropped: whoever holds one need not be told. Blocks are dropped whole, oldest first. Only the end
may be rewritten.
Knows nothing of what a line means or how it looks.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from rich.cells import cell_len

from .sgr import plain

__all__ = ["BLOCK_LINES", "MOST_BYTES", "MOST_LINES", "Block", "Kind", "Line", "Store", "cells_of"]

BLOCK_LINES = 2048
MOST_LINES = 1_000_000
MOST_BYTES = 256 << 20  # of text; the rest is about 25 bytes a line


class Kind:
    """What wrote a line."""

    STDOUT = 0
    STDERR = 1
    NOTE = 2
    SEPARATOR = 3


_WIDE = 0x80  # beside the kind: has characters that are not one cell each


class Line(NamedTuple):
    """`text` holds SGR and OSC 8, no other control; it is `cells` wide. `time_ns`: since 1970."""

    text: str
    kind: int
    run: int
    time_ns: int
    cells: int
    is_wide: bool


def cells_of(text: str) -> tuple[int, bool]:
    """How wide a line's text is, and whether its characters differ in width."""
    bare = plain(text)
    return (len(bare), False) if bare.isascii() else (cell_len(bare), True)


class Block:
    """Up to `BLOCK_LINES` lines."""

    __slots__ = (
        "cells",
        "data",
        "ends",
        "has_wide",
        "kinds",
        "runs",
        "times",
        "widest",
        "widest_note",
    )

    def __init__(self) -> None:
        self.data = bytearray()  # each line followed by a newline
        self.ends = array("Q")  # where each line's newline lies
        self.kinds = bytearray()
        self.runs = array("Q")
        self.times = array("q")
        self.cells = array("I")
        self.widest = 0
        self.widest_note = 0
        self.has_wide = False

    def __len__(self) -> int:
        return len(self.ends)

    def append(self, text: str, kind: int, run: int, time_ns: int) -> None:
        cells, is_wide = cells_of(text)
        self.data += text.encode("utf-8", "replace")
        self.ends.append(len(self.data))
        self.data += b"\n"
        self.kinds.append(kind | _WIDE if is_wide else kind)
        self.has_wide = self.has_wide or is_wide
        self.runs.append(run)
        self.times.append(time_ns)
        self.cells.append(cells)
        self.widest = max(self.widest, cells)
        if kind == Kind.NOTE:
            self.widest_note = max(self.widest_note, cells)

    def text(self, at: int) -> str:
        start = self.ends[at - 1] + 1 if at else 0
        return self.data[start : self.ends[at]].decode()

    def line(self, at: int) -> Line:
        kind = self.kinds[at]
        return Line(
            self.text(at),
            self.kind(at),
            self.runs[at],
            self.times[at],
            self.cells[at],
            bool(kind & _WIDE),
        )

    def kind(self, at: int) -> int:
        return self.kinds[at] & ~_WIDE

    def is_wide(self, at: int) -> bool:
        return bool(self.kinds[at] & _WIDE)

    def plain_lines(self) -> list[str]:
        """Every line without its escapes."""
        return plain(self.data.decode()).split("\n")[:-1]

    def truncate(self, count: int) -> None:
        """Keeps the first `count` lines."""
        del self.data[self.ends[count - 1] + 1 if count else 0 :]
        for column in (self.ends, self.kinds, self.runs, self.times, self.cells):
            del column[count:]


class Store:
    """Lines `first` to `end` (exclusive) are there."""

    def __init__(self, most_lines: int = MOST_LINES, most_bytes: int = MOST_BYTES) -> None:
        self._blocks: dict[int, Block] = {0: Block()}  # by number: line number // BLOCK_LINES
        self._most_lines = most_lines
        self._most_bytes = most_bytes
        self._sealed_bytes = 0  # of all blocks but the last
        self._oldest = 0
        self._newest = 0

    @property
    def first(self) -> int:
        """The oldest line that is still there; as many were dropped."""
        return self._oldest * BLOCK_LINES

    @property
    def end(self) -> int:
        return self._newest * BLOCK_LINES + len(self._blocks[self._newest])

    @property
    def size_bytes(self) -> int:
        """Of all text."""
        return self._sealed_bytes + len(self._blocks[self._newest].data)

    def __len__(self) -> int:
        return self.end - self.first

    def blocks(self) -> range:
        """The numbers of the blocks that are there."""
        return range(self._oldest, self._newest + 1)

    def block(self, number: int) -> Block:
        """Raises KeyError for one that was dropped."""
        return self._blocks[number]

    def line(self, number: int) -> Line:
        """Raises KeyError or IndexError for one that is not there."""
        return self._blocks[number // BLOCK_LINES].line(number % BLOCK_LINES)

    def append(self, text: str, kind: int, run: int, time_ns: int) -> None:
        block = self._blocks[self._newest]
        if len(block) == BLOCK_LINES:
            self._sealed_bytes += len(block.data)
            self._newest += 1
            block = self._blocks[self._newest] = Block()
            self._drop()
        block.append(text, kind, run, time_ns)
        if self._sealed_bytes + len(block.data) > self._most_bytes:
            self._drop()

    def truncate(self, end: int) -> None:
        """Takes back the newest lines, from number `end` on."""
        newest = max(end - 1, 0) // BLOCK_LINES
        while self._newest > max(newest, self._oldest):
            del self._blocks[self._newest]
            self._newest -= 1
            self._sealed_bytes -= len(self._blocks[self._newest].data)
        block = self._blocks[self._newest]
        block.truncate(min(len(block), max(0, end - self._newest * BLOCK_LINES)))

    def widest(self) -> int:
        """Cells of the widest line; taken back ones may still count."""
        return max(block.widest for block in self._blocks.values())

    def _drop(self) -> None:
        """The newest block stays, which may become full before this is called again."""
        while self._oldest < self._newest and (
            (self._newest - self._oldest + 1) * BLOCK_LINES > self._most_lines
            or self.size_bytes > self._most_bytes
        ):
            self._sealed_bytes -= len(self._blocks.pop(self._oldest).data)
            self._oldest += 1
