"""What the user has selected: from one character of one line to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .rows import without_mark
from .sgr import plain

if TYPE_CHECKING:
    from .store import Store
    from .view import View

__all__ = ["Point", "Selection"]


class Point(NamedTuple):
    """A character of a line, of its text without escapes."""

    line: int
    column: int


class Selection(NamedTuple):
    """From where it began to where it was drawn to, in either order; both ends belong to it."""

    anchor: Point
    head: Point
    whole_lines: bool = False

    @property
    def first_line(self) -> int:
        return min(self.anchor.line, self.head.line)

    @property
    def last_line(self) -> int:
        return max(self.anchor.line, self.head.line)

    def span(self, line: int, length: int) -> tuple[int, int] | None:
        """Which characters of a line of `length` are selected; None for none of its."""
        start, end = sorted((self.anchor, self.head))
        if not start.line <= line <= end.line:
            return None
        if self.whole_lines:
            return 0, length
        first = start.column if line == start.line else 0
        last = end.column + 1 if line == end.line else length
        return min(first, length), min(last, length)

    def text(self, store: Store, view: View) -> str:
        """The selected text of the lines that are shown, without colours."""
        parts = []
        for line in view.lines(self.first_line, self.last_line + 1):
            text = plain(store.line(line).text)
            span = self.span(line, len(text))
            if span is not None:
                parts.append(without_mark(text[slice(*span)]))
        return "\n".join(parts)
