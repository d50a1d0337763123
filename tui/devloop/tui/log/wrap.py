"""Where a line breaks when it is wrapped: after so many cells, never within a wide character."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from rich.cells import get_character_cell_size

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["column_at", "height", "starts", "word_starts"]


@lru_cache(maxsize=512)
def starts(text: str, width: int) -> Sequence[int]:
    """The cell that each row starts at, of a text without escapes."""
    if text.isascii():
        return range(0, max(len(text), 1), width)
    found, cell = [0], 0
    for character in text:
        size = get_character_cell_size(character)
        if cell + size - found[-1] > width and cell > found[-1]:
            found.append(cell)
        cell += size
    return found


@lru_cache(maxsize=512)
def word_starts(text: str, width: int) -> Sequence[int]:
    """As `starts`, but a row ends between words where it can."""
    found, cell, word = [0], 0, 0
    for character in text:
        size = get_character_cell_size(character)
        if cell + size - found[-1] > width and cell > found[-1]:
            found.append(word if word > found[-1] else cell)
        cell += size
        if character == " ":
            word = cell
    return found


def height(cells: int, width: int) -> int:
    """How many rows a line takes whose characters are all one cell wide."""
    return max(1, -(-cells // width))


def column_at(text: str, cell: int) -> int:
    """Which character lies in a cell; the text's length for one beyond its end."""
    if cell < 0:
        return 0
    if text.isascii():
        return min(cell, len(text))
    position = 0
    for column, character in enumerate(text):
        position += get_character_cell_size(character)
        if position > cell:
            return column
    return len(text)
