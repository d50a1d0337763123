"""A line of the log to a strip of the screen: gutter, time, a part of the text, highlights."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from . import sgr
from .store import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .store import Line

__all__ = ["GUTTER", "TIME", "Highlight", "Look", "Styles", "margin", "paint", "rule"]

GUTTER = 1  # cells
TIME = 13  # "12:00:11.123 "
MORE = "›"  # the line goes on to the right
SEPARATES = " · "
MARKED, AT_CURSOR, FROM_STDERR, NOTED = "●", "❯", "▎", "·"


class Styles(NamedTuple):
    """How the pane's parts look, from its style sheet."""

    base: Style
    stderr: Style
    separator: Style
    match: Style
    selection: Style
    cursor: Style
    time: Style
    mark: Style
    link: Style
    context: Style


class Look(NamedTuple):
    """Of the whole pane. `left`: how many cells are scrolled off to the left."""

    width: int
    left: int
    wraps: bool
    times: bool


class Highlight(NamedTuple):
    """Characters `start` to `end` of a line's plain text, in a style on top of their own."""

    start: int
    end: int
    style: Style


def margin(look: Look) -> int:
    """Cells before the text."""
    return GUTTER + (TIME if look.times else 0)


def paint(
    line: Line,
    part: int,
    starts: Sequence[int],
    look: Look,
    styles: Styles,
    highlights: Sequence[Highlight] = (),
    *,
    is_marked: bool = False,
    at_cursor: bool = False,
) -> Strip:
    """One row, exactly as wide as the pane. `starts`: the cell that each row starts at."""
    base = styles.base + styles.cursor if at_cursor else styles.base
    before = [_gutter(line.kind, part, styles, is_marked=is_marked, at_cursor=at_cursor)]
    if look.times:
        before.append(Segment("" if part else _clock(line.time_ns), styles.time))
        if part:
            before[-1] = Segment(" " * TIME)
    segments: Iterable[Segment] = _segments(line.text)
    for highlight in highlights:
        segments = _highlighted(segments, highlight)
    text = Strip(segments, line.cells)
    room = max(1, look.width - margin(look))
    if look.wraps or line.kind == Kind.NOTE:
        text = _wrapped(text, part, starts)
    else:
        text = _cropped(text, look.left, room, styles)
    shown = Segment.apply_style([*before, *text], base)
    return Strip(shown).adjust_cell_length(look.width, base)


def rule(text: str, look: Look, styles: Styles) -> Strip:
    """A separator across the pane. What is longest in it is shortened where it does not fit."""
    words = f"── {_shortened(text, look.width - 4)} "
    style = styles.base + styles.separator
    fill = "─" * max(0, look.width - cell_len(words))
    return Strip([Segment(words + fill, style)]).adjust_cell_length(look.width, style)


def _shortened(text: str, width: int) -> str:
    parts = text.split(SEPARATES)
    at = max(range(len(parts)), key=lambda at: cell_len(parts[at]))
    spare = width - cell_len(text)
    if spare < 0:
        room = max(cell_len(parts[at]) + spare - 1, 0)
        parts[at] = set_cell_size(parts[at], room).rstrip() + "…"
    return SEPARATES.join(parts)


@lru_cache(maxsize=2048)
def _segments(text: str) -> tuple[Segment, ...]:
    return tuple(sgr.segments(text))


@lru_cache(maxsize=2048)
def _clock(time_ns: int) -> str:
    at = datetime.fromtimestamp(time_ns / 1e9).astimezone()
    return f"{at:%H:%M:%S}.{time_ns // 1_000_000 % 1000:03d} "


def _gutter(kind: int, part: int, styles: Styles, *, is_marked: bool, at_cursor: bool) -> Segment:
    if is_marked:
        return Segment(MARKED, styles.mark)
    if at_cursor and not part:
        return Segment(AT_CURSOR, styles.mark)
    if kind == Kind.STDERR:
        return Segment(FROM_STDERR, styles.stderr)
    return Segment(NOTED if kind == Kind.NOTE and not part else " ", styles.time)


def _wrapped(text: Strip, part: int, starts: Sequence[int]) -> Strip:
    if len(starts) == 1:
        return text
    return text.crop(starts[part], starts[part + 1] if part + 1 < len(starts) else None)


def _cropped(text: Strip, left: int, room: int, styles: Styles) -> Strip:
    if text.cell_length <= left + room:
        return text.crop(left, None) if left else text
    cut = text.crop(left, left + room - 1)
    return Strip([*cut, Segment(MORE, styles.time)])


def _highlighted(segments: Iterable[Segment], highlight: Highlight) -> list[Segment]:
    start, end, style = highlight
    result: list[Segment] = []
    position = 0
    for segment in segments:
        text, own, _ = segment
        first = min(max(start - position, 0), len(text))
        last = min(max(end - position, first), len(text))
        position += len(text)
        if first == last:
            result.append(segment)
            continue
        pieces = ((text[:first], own), (text[first:last], _over(own, style)), (text[last:], own))
        result.extend(Segment(piece, look) for piece, look in pieces if piece)
    return result


def _over(own: Style | None, style: Style) -> Style:
    return style if own is None else own + style
