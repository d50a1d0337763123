"""A row that may still be rewritten: text while it only grows, cells once the cursor moved in it.

Owns how characters occupy cells. Knows no escapes but those that `pen.py` reads and writes.
"""

from __future__ import annotations

from rich.cells import get_character_cell_size

from . import pen as pens
from .pen import Pen
from .sgr import ESCAPE, plain, spans

__all__ = ["LONGEST_ROW", "Cells", "Row", "pen_after", "without_mark"]

LONGEST_ROW = 16_384  # characters with their escapes; a program that writes no newline is bounded
CUT = f"\x1b[0;7m … cut at {LONGEST_ROW:,} characters \x1b[0m"
MOST_COMBINING = 8  # of a cell
TAB = 8

_BLANK = (" ", pens.DEFAULT)


def without_mark(text: str) -> str:
    """What the program has printed of a line that was cut; `text` without escapes."""
    return text.removesuffix(plain(CUT))


def pen_after(pen: Pen, text: str) -> Pen:
    """The pen once `text` was written."""
    for match in ESCAPE.finditer(text):
        parameters, link = match.groups()
        pen = pens.apply(pen, parameters) if parameters is not None else pens.with_link(pen, link)
    return pen


class Cells:
    """A row as columns. A wide character lies in two, the second of which is empty."""

    def __init__(self, text: str = "") -> None:
        self._cells: list[tuple[str, Pen]] = []
        for piece, pen in spans(text):
            self.write(len(self._cells), piece, pen)

    def __len__(self) -> int:
        return len(self._cells)

    def write(self, column: int, text: str, pen: Pen) -> int:
        """Overwrites from `column` on; the column after it. Beyond the bound nothing is kept."""
        cells = self._cells
        for character in text:
            if character == "\t":
                column = min(column // TAB * TAB + TAB, LONGEST_ROW - 1)
                continue
            width = 1 if character < "\x7f" else get_character_cell_size(character)
            if width == 0:
                self._combine(column - 1, character)
                continue
            if column + width > LONGEST_ROW:
                break
            if len(cells) < column + width:
                cells.extend([_BLANK] * (column + width - len(cells)))
            self._free(column, column + width)
            cells[column] = (character, pen)
            if width == 2:
                cells[column + 1] = ("", pen)
            column += width
        return column

    def _combine(self, column: int, character: str) -> None:
        if 0 <= column < len(self._cells):
            if not self._cells[column][0] and column:
                column -= 1
            before, pen = self._cells[column]
            if len(before) < MOST_COMBINING:
                self._cells[column] = (before + character, pen)

    def _free(self, start: int, end: int) -> None:
        """Half of a wide character that stays becomes a blank."""
        cells = self._cells
        if start and start < len(cells) and not cells[start][0]:
            cells[start - 1] = (" ", cells[start - 1][1])
        if end < len(cells) and not cells[end][0]:
            cells[end] = (" ", cells[end][1])

    def erase(self, start: int, end: int | None = None) -> None:
        """Blanks from `start` up to `end`, or all that follows."""
        self._free(start, len(self._cells) if end is None else end)
        if end is None or end >= len(self._cells):
            del self._cells[start:]
        elif start < end:
            self._cells[start:end] = [_BLANK] * (end - start)

    def delete(self, column: int, count: int) -> None:
        """What follows moves left."""
        self._free(column, column + count)
        del self._cells[column : column + count]

    def insert(self, column: int, count: int) -> None:
        """What follows moves right."""
        if column < len(self._cells):
            self._free(column, column)
            self._cells[column:column] = [_BLANK] * min(count, LONGEST_ROW)
            del self._cells[LONGEST_ROW:]

    def text(self) -> str:
        """The row with its escapes, without the blanks at its end."""
        cells = self._cells
        end = len(cells)
        while end and cells[end - 1] == _BLANK:
            end -= 1
        parts: list[str] = []
        before = pens.DEFAULT
        for character, pen in cells[:end]:
            if pen != before:
                parts.append(_change(before, pen))
                before = pen
            parts.append(character)
        return "".join(parts)


def _change(before: Pen, pen: Pen) -> str:
    """From one pen to the next: back to the default, then forward."""
    end_link = "\x1b]8;;\x1b\\" if before.link else ""
    reset = "\x1b[0m" if before != pens.DEFAULT else ""
    return end_link + reset + pens.opening(pen)


class Row:
    """One row of a run's output, with the stream and the time of its first character."""

    __slots__ = ("_cells", "_text", "stream", "time_ns")

    def __init__(self, text: str, stream: int, time_ns: int) -> None:
        self._text = text if len(text) <= LONGEST_ROW else _cut(text)
        self._cells: Cells | None = None
        self.stream = stream
        self.time_ns = time_ns

    @property
    def text(self) -> str:
        return self._text if self._cells is None else self._cells.text()

    @property
    def grows(self) -> bool:
        """Nothing but appending was done to it."""
        return self._cells is None

    @property
    def is_empty(self) -> bool:
        """Not one character was written."""
        return not plain(self.text)

    @property
    def is_blank(self) -> bool:
        """Nothing of it can be seen."""
        return not plain(self.text).strip()

    def append(self, text: str) -> None:
        """To the end of a row that grows."""
        room = LONGEST_ROW - len(self._text)
        if room >= len(text):
            self._text += text
        elif room >= 0:
            self._text = _cut(self._text + text)

    def cells(self) -> Cells:
        """As columns, from now on."""
        if self._cells is None:
            self._cells, self._text = Cells(self._text), ""
        return self._cells


def _cut(text: str) -> str:
    """Longer than the bound by the mark, so that nothing is appended to it any more."""
    text = text[:LONGEST_ROW]
    whole = ESCAPE.sub(lambda escape: "." * len(escape[0]), text)
    partial = whole.find("\x1b")
    return (text if partial < 0 else text[:partial]).ljust(LONGEST_ROW) + CUT
