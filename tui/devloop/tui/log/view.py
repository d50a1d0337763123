"""Which lines are shown, and in which row: what was cleared, what a filter keeps, how lines wrap.

Notes of ours are wrapped in any case: they are sentences, and nobody scrolls sideways for their
end. A separator is always one row. Rows count from the top of the scrollback. Counts are kept per
block, so that neither new lines nor a row in the middle of a million of them cost more than a look
at one block.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from . import wrap
from .sgr import plain
from .store import BLOCK_LINES, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .search import Matches
    from .store import Block, Store

__all__ = ["DROPPED", "Place", "View"]

ONE_ROW: Sequence[int] = (0,)
DROPPED = -1  # the row on top that says that older lines are gone


class Place(NamedTuple):
    """A row of a line: 0 is its first."""

    line: int
    part: int


class _Shown(NamedTuple):
    """What is shown of a block: places within it, and with wrapping where each one's rows end."""

    places: Sequence[int]
    ends: Sequence[int] | None

    @property
    def rows(self) -> int:
        if self.ends is None:
            return len(self.places)
        return self.ends[-1] if self.ends else 0


class View:
    """Rows over a store. Whoever changes the store says so (`changed_from`, `filter_changed`)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._start = 0  # older lines are not shown
        self._filter: Matches | None = None
        self._context = 0
        self._width = 0  # 0: not known yet
        self._wraps = False
        self._shown: dict[int, _Shown] = {}
        self._first_rows: list[int] = []  # of each block that is there; then the count of all

    @property
    def start(self) -> int:
        return max(self._start, self._store.first)

    @property
    def row_count(self) -> int:
        return self._rows()[-1] + self._header

    @property
    def _header(self) -> int:
        return int(0 < self._store.first >= self._start)

    def show_from(self, line: int) -> None:
        self._start = line
        self._forget()

    def lay_out(self, width: int, *, wraps: bool) -> None:
        """In rows of so many cells. Unless it `wraps`, what programs print is a row a line."""
        if (width, wraps) != (self._width, self._wraps):
            self._width, self._wraps = width, wraps
            self._forget()

    def starts(self, line: int) -> Sequence[int]:
        """The cell that each row of a line starts at."""
        block = self._store.block(line // BLOCK_LINES)
        return self._starts(block, line % BLOCK_LINES)

    def filter_by(self, matches: Matches | None, context: int) -> None:
        """Only lines that match, and `context` lines before and after each."""
        self._filter, self._context = matches, context
        self._forget()

    def filter_changed(self, block: int) -> None:
        """More is known of which lines of a block match."""
        for near in (block - 1, block, block + 1):
            self._shown.pop(near, None)
        self._first_rows = []

    def changed_from(self, line: int) -> None:
        """Lines from this one on were added, rewritten or taken back; old ones may be dropped."""
        blocks = self._store.blocks()
        oldest_changed = max(line - self._context, 0) // BLOCK_LINES
        for block in [b for b in self._shown if b >= oldest_changed or b not in blocks]:
            del self._shown[block]
        self._first_rows = []

    def locate(self, row: int) -> Place | None:
        """What is in a row."""
        row -= self._header
        if row < 0:
            return Place(DROPPED, 0) if self._header and row == -1 else None
        first_rows = self._rows()
        if row >= first_rows[-1]:
            return None
        index = bisect_right(first_rows, row) - 1
        block = self._store.blocks()[index]
        shown, row = self._of(block), row - first_rows[index]
        if shown.ends is None:
            return Place(block * BLOCK_LINES + shown.places[row], 0)
        at = bisect_right(shown.ends, row)
        part = row - (shown.ends[at - 1] if at else 0)
        return Place(block * BLOCK_LINES + shown.places[at], part)

    def row_of(self, line: int) -> int:
        """The first row of a line; of the next one that is shown where it is not."""
        blocks = self._store.blocks()
        block = line // BLOCK_LINES
        if block < blocks.start:
            return 0
        first_rows = self._rows()
        if block >= blocks.stop:
            return first_rows[-1] + self._header
        shown = self._of(block)
        at = bisect_left(shown.places, line - block * BLOCK_LINES)
        within = at if shown.ends is None else (shown.ends[at - 1] if at else 0)
        return first_rows[block - blocks.start] + within + self._header

    def rows_of(self, line: int) -> int:
        """How many rows a line that is shown takes."""
        block = self._store.block(line // BLOCK_LINES)
        return len(self._starts(block, line % BLOCK_LINES))

    def is_shown(self, line: int) -> bool:
        blocks = self._store.blocks()
        block = line // BLOCK_LINES
        if block not in blocks:
            return False
        places = self._of(block).places
        at = bisect_left(places, line % BLOCK_LINES)
        return at < len(places) and places[at] == line % BLOCK_LINES

    def lines(self, start: int, end: int) -> Iterator[int]:
        """The lines that are shown, from `start` up to `end` (exclusive)."""
        blocks = self._store.blocks()
        first, last = max(start // BLOCK_LINES, blocks.start), (end - 1) // BLOCK_LINES
        for block in range(first, min(last + 1, blocks.stop)):
            base = block * BLOCK_LINES
            places = self._of(block).places
            for at in range(bisect_left(places, start - base), bisect_left(places, end - base)):
                yield base + places[at]

    def neighbour(self, line: int, by: int) -> int | None:
        """The line that is shown `by` lines after `line`; the outermost one at the ends."""
        row = self.row_of(line)
        for _ in range(abs(by)):
            step = self.rows_of(line) if by > 0 else -1
            place = self.locate(row + step)
            if place is None or place.line == DROPPED:
                break
            line = place.line
            row = self.row_of(line)
        return line if self.is_shown(line) else None

    @property
    def last(self) -> int | None:
        """The newest line that is shown."""
        place = self.locate(self.row_count - 1)
        return place.line if place is not None and place.line != DROPPED else None

    def _forget(self) -> None:
        self._shown.clear()
        self._first_rows = []

    def _rows(self) -> list[int]:
        if not self._first_rows:
            counts = (self._of(block).rows for block in self._store.blocks())
            self._first_rows = [0, *accumulate(counts)]
        return self._first_rows

    def _of(self, block: int) -> _Shown:
        shown = self._shown.get(block)
        if shown is None:
            places = self._places(block)
            shown = self._shown[block] = _Shown(places, self._ends(block, places))
        return shown

    def _places(self, number: int) -> Sequence[int]:
        count = len(self._store.block(number))
        first = min(max(self._start - number * BLOCK_LINES, 0), count)
        if self._filter is None:
            return range(first, count)
        if not self._context:
            found = self._filter.in_block(number)
            return found[bisect_left(found, first) :]
        return self._with_context(self._filter, number, first, count)

    def _with_context(self, matches: Matches, number: int, first: int, count: int) -> array[int]:
        kept = bytearray(count)
        for near in (number - 1, number, number + 1):
            shift = (near - number) * BLOCK_LINES
            for place in matches.in_block(near):
                start = max(place + shift - self._context, 0)
                end = min(place + shift + self._context + 1, count)
                if start < end:
                    kept[start:end] = b"\x01" * (end - start)
        return array("I", [place for place in range(first, count) if kept[place]])

    def _ends(self, number: int, places: Sequence[int]) -> Sequence[int] | None:
        block = self._store.block(number)
        widest = block.widest if self._wraps else block.widest_note
        if not self._width or widest <= self._width:
            return None
        return array("Q", accumulate(self._heights(block, places)))

    def _heights(self, block: Block, places: Sequence[int]) -> list[int]:
        width, cells = self._width, block.cells
        if not self._wraps or block.has_wide or block.widest_note > width:
            return [len(self._starts(block, place)) for place in places]
        if len(places) < len(cells):
            return [wrap.height(cells[place], width) for place in places]
        return [1 if count <= width else -(-count // width) for count in cells]

    def _starts(self, block: Block, place: int) -> Sequence[int]:
        width, cells, kind = self._width, block.cells[place], block.kind(place)
        if not width or cells <= width or kind == Kind.SEPARATOR:
            return ONE_ROW
        if kind == Kind.NOTE:
            return wrap.word_starts(plain(block.text(place)), width)
        if not self._wraps:
            return ONE_ROW
        if block.is_wide(place):
            return wrap.starts(plain(block.text(place)), width)
        return range(0, cells, width)
