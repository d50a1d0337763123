"""The log's picture: its rows in a scrolled view, in frames, and the place where the user is.

Owns drawing, the place on top, the cursor and the selection as they are drawn, and whether new
lines are followed. The log stays still while they are not: the place on top is a line, not a row,
whatever comes. What keys and the mouse do is `pane.py`'s.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from .links import links
from .model import LogModel
from .paint import Highlight, Look, Styles, margin, paint, rule
from .sgr import plain
from .store import MOST_BYTES, MOST_LINES, Kind
from .view import DROPPED, Place

if TYPE_CHECKING:
    from .model import StreamName
    from .search import Matches
    from .selection import Selection
    from .store import Line

__all__ = ["LogCanvas"]

FRAME_S = 0.1  # between two frames while much comes
QUIET_FRAME_S = 0.03  # while little does: the first line of a run is seen at once
QUIET_ROWS = 40
BEGIN_FRAME_S = 0.05  # a run's first output is drawn with its separator: a frame costs 20 ms


class LogCanvas(ScrollView, can_focus=True):
    """What runs print. Feed it with `begin_run`, `append`, `note` and `end_run`."""

    ALLOW_SELECT = False  # the selection here is of lines, and survives scrolling and dropping
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "log--stderr",
        "log--separator",
        "log--match",
        "log--selection",
        "log--cursor",
        "log--time",
        "log--mark",
        "log--link",
        "log--context",
    }
    DEFAULT_CSS = """
    LogCanvas {
        overflow-x: hidden;
        overflow-y: scroll;
        scrollbar-size-vertical: 1;
        border-top: solid $foreground 40%;
        border-title-color: $foreground;
        &:focus { border-top: solid $accent; }
        .log--stderr { color: $text-error; }
        .log--separator { color: $text-accent; text-style: bold; }
        .log--match { background: $warning; color: $background; }
        .log--selection { text-style: reverse; }
        .log--cursor { background: $panel; }
        .log--time { text-style: dim; }
        .log--mark { color: $text-warning; text-style: bold; }
        .log--link { text-style: underline; }
        .log--context { text-style: dim; }
    }
    """

    class StateChanged(Message):
        """The title is another one."""

    def __init__(
        self,
        *,
        most_lines: int = MOST_LINES,
        most_bytes: int = MOST_BYTES,
        id: str | None = None,  # noqa: A002 - Textual's name
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.model = LogModel(most_lines, most_bytes)
        self._following = True
        self._stays_paused = (
            False  # paused by a key, not by scrolling: reaching the end is no resume
        )
        self._paused_at = 0
        self._top = Place(0, 0)
        self._cursor: int | None = None
        self._selection: Selection | None = None
        self._wraps = False
        self._times = False
        self._left = 0
        self._placing = False
        self._styles: Styles | None = None
        self._flush_planned = False
        self._awaits_first = False  # a run has begun: its first output is seen at once
        self._flushed_at = 0.0
        self._rows_since = 0
        self._said_title = ""

    # What is fed

    def begin_run(self, number: int, title: str) -> None:
        """A separator with `title` ("run 14 · model.py changed"); later output is this run's."""
        self.model.begin_run(number, title)
        self._awaits_first = True
        self._plan_flush(BEGIN_FRAME_S)

    def end_run(self, number: int, title: str) -> None:
        self.model.end_run(number, title)
        self._plan_flush()

    def append(self, run: int, stream: StreamName, data: bytes, time_ns: int) -> None:
        """What a run printed, cut anywhere. `time_ns`: since 1970."""
        self.model.append(run, stream, data, time_ns)
        self._rows_since += data.count(b"\n")
        if self._awaits_first:
            self._awaits_first = False
            self.call_later(self.flush)
        self._plan_flush()

    def note(self, text: str, style: str = "info") -> None:
        """A line of ours: "info", "success", "warning", "error" or "dim"."""
        self.model.note(text, style)
        self._plan_flush()

    # What it says

    @property
    def line_count(self) -> int:
        return len(self.model.store)

    @property
    def is_following(self) -> bool:
        return self._following

    @property
    def new_since_pause(self) -> int:
        """Lines that came since the log was paused; 0 while it follows."""
        return 0 if self._following else max(0, self.model.store.end - self._paused_at)

    @property
    def has_selection(self) -> bool:
        return self._selection is not None

    @property
    def text_width(self) -> int:
        """Cells that a line has, for the size of a run's terminal."""
        return max(1, self.size.width - margin(self._look))

    @property
    def title_text(self) -> str:
        """ "log · run 14 · FOLLOW · 18,204 lines · wrap off"."""
        model = self.model
        current = self._current
        run = model.run_at(model.store.end if current is None else current)
        dropped = f" ({model.store.first:,} dropped)" if model.store.first else ""
        parts = [
            "log",
            f"run {run.number}" if run else "",
            self._state_words,
            _count_words("/", model.find),
            _count_words("&", model.filter) + (f" ±{model.context}" if model.context else ""),
            f"{self.line_count:,} {'line' if self.line_count == 1 else 'lines'}{dropped}",
            "cleared" if model.is_cleared else "",
            f"wrap {'on' if self._wraps else 'off'}",
        ]
        return " · ".join(part for part in parts if part)

    @property
    def _state_words(self) -> str:
        if self._following:
            return "FOLLOW"
        new = self.new_since_pause
        return f"PAUSED +{new:,} new · End to follow" if new else "PAUSED · End to follow"

    # Drawing

    def flush(self) -> None:
        """Draws what was appended. Comes by itself; for tests and benchmarks."""
        self._flush_planned = False
        self._flushed_at = time.monotonic()
        self._rows_since = 0
        self.model.settle()
        self._relayout()

    def render_lines(self, crop: Region) -> list[Strip]:
        self._styles = self._read_styles()  # once a frame: they cost more than a row
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        styles, look = self._styles or self._read_styles(), self._look
        place = self.model.view.locate(self.scroll_offset.y + y)
        if place is None:
            return Strip.blank(look.width, styles.base)
        if place.line == DROPPED:
            count = self.model.store.first
            return rule(f"{count:,} older lines were dropped", look, styles)
        line = self.model.store.line(place.line)
        if line.kind == Kind.SEPARATOR:
            return rule(line.text, look, styles)
        return paint(
            line,
            place.part,
            self.model.view.starts(place.line),
            look,
            styles,
            self._highlights(place.line, line, styles),
            is_marked=place.line in self.model.marks,
            at_cursor=place.line == self._cursor,
        )

    def _highlights(self, number: int, line: Line, styles: Styles) -> list[Highlight]:
        text = plain(line.text)
        found = [Highlight(link.start, link.end, styles.link) for link in links(text)]
        model = self.model
        if model.filter is not None and model.context and not model.filter.pattern.matches(text):
            found.append(Highlight(0, len(text), styles.context))
        for matches in (model.filter, model.find):
            if matches is not None:
                found += [Highlight(*span, styles.match) for span in matches.pattern.spans(text)]
        span = self._selection.span(number, len(text)) if self._selection else None
        return [*found, Highlight(*span, styles.selection)] if span else found

    @property
    def _look(self) -> Look:
        return Look(self.size.width, 0 if self._wraps else self._left, self._wraps, self._times)

    def _read_styles(self) -> Styles:
        parts = {
            name: self.get_component_rich_style(f"log--{name}", partial=True)
            for name in Styles._fields
            if name != "base"
        }
        return Styles(base=self.rich_style, **parts)

    def _plan_flush(self, least_s: float = 0.0) -> None:
        if self._flush_planned or not self.is_mounted:
            return
        self._flush_planned = True
        frame_s = QUIET_FRAME_S if self._rows_since < QUIET_ROWS else FRAME_S
        delay_s = max(self._flushed_at + frame_s - time.monotonic(), least_s)
        if delay_s <= 0:
            self.call_later(self._planned_flush)
        else:
            self.set_timer(delay_s, self._planned_flush)

    def _planned_flush(self) -> None:
        if self._flush_planned:
            self.flush()

    def _relayout(self) -> None:
        """Rows may be others: the place on top stays, or the end is on the screen."""
        if not self.is_mounted:
            return
        view = self.model.view
        view.lay_out(self.text_width, wraps=self._wraps)
        size = Size(0, view.row_count)
        self._placing = True
        try:
            if size != self.virtual_size:
                # Without the layout of the whole screen that the reactive asks for.
                self.set_reactive(Widget.virtual_size, size)
                self._scroll_update(size)
            top = self.max_scroll_y if self._following else self._row_of(self._top)
            self.scroll_target_y = self.scroll_y = top
        finally:
            self._placing = False
        self.refresh()
        self._show_title()

    def _row_of(self, place: Place) -> int:
        return 0 if place.line == DROPPED else self.model.view.row_of(place.line) + place.part

    def _show_title(self) -> None:
        title = self.title_text
        if title != self._said_title:
            self._said_title = title
            self.border_title = Content(title)
            self.post_message(self.StateChanged())

    def on_mount(self) -> None:
        self.flush()

    def on_resize(self) -> None:
        self._relayout()

    # Where the user is

    @property
    def _height(self) -> int:
        return max(1, self.size.height)

    @property
    def _current(self) -> int | None:
        """The line that keys are about: under the cursor, or the last one on the screen."""
        view = self.model.view
        if self._cursor is not None and view.is_shown(self._cursor):
            return self._cursor
        row = min(self.scroll_offset.y + self._height, view.row_count) - 1
        place = view.locate(row)
        return place.line if place is not None and place.line != DROPPED else None

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if not self._placing and round(old_value) != round(new_value):
            self._scrolled()

    def _size_updated(
        self, size: Size, virtual_size: Size, container_size: Size, layout: bool = True
    ) -> bool:
        """Textual's. A larger pane may move the rows on top: that is no scrolling by the user."""
        self._placing = True
        try:
            return super()._size_updated(size, virtual_size, container_size, layout)
        finally:
            self._placing = False

    def action_follow(self) -> None:
        """To the end, and on with it."""
        self._following, self._stays_paused = True, False
        self._cursor = self._selection = None
        self._relayout()

    def _scrolled(self) -> None:
        """By the user: up means paused, back at the end means followed."""
        at_end = self.scroll_offset.y >= self.max_scroll_y
        if self._following and not at_end:
            self._pause(stays=False)
        elif at_end and not self._following and not self._stays_paused:
            self.action_follow()
            return
        self._keep_top()
        self._clamp_cursor()
        self._show_title()

    def _keep_top(self) -> None:
        self._top = self.model.view.locate(self.scroll_offset.y) or Place(0, 0)

    def _clamp_cursor(self) -> None:
        """Into the screen, if there is a cursor."""
        if self._cursor is None:
            return
        view, top = self.model.view, self.scroll_offset.y
        row = view.row_of(self._cursor)
        inside = min(max(row, top), min(top + self._height, view.row_count) - 1)
        place = view.locate(inside)
        if inside != row and place is not None and place.line != DROPPED:
            self._cursor = place.line
            self.refresh()

    def _pause(self, *, stays: bool) -> None:
        self._stays_paused = self._stays_paused or stays
        if self._following:
            current = self._current
            self._following = False
            self._paused_at = self.model.store.end
            self._cursor = current
            self._keep_top()
        self.refresh()
        self._show_title()

    def _scroll_rows(self, row: int) -> None:
        """Puts a row on top, without the end of it meaning "follow"."""
        self._placing = True
        self.scroll_target_y = self.scroll_y = row
        self._placing = False
        self._keep_top()

    def _reveal(self, line: int) -> None:
        """Scrolls no further than it must; to the middle if the line is far off."""
        view, top, height = self.model.view, self.scroll_offset.y, self._height
        row, rows = view.row_of(line), view.rows_of(line)
        if row + rows > top + 2 * height or row < top - height:
            self._scroll_rows(row - height // 2)
        elif row < top:
            self._scroll_rows(row)
        elif row + rows > top + height:
            self._scroll_rows(min(row, row + rows - height))
        self.refresh()

    def _go_to(self, line: int) -> None:
        self._pause(stays=False)
        self._cursor = line
        self._reveal(line)
        self._show_title()


def _count_words(sigil: str, matches: Matches | None) -> str:
    if matches is None:
        return ""
    pattern = matches.pattern
    as_text = " (as text)" if pattern.is_text else ""
    return f"{sigil}{pattern.source}{as_text} · {matches.count:,} found"
