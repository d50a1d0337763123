"""The log pane: draws the log's model, scrolls it, and turns keys and clicks into what they mean.

Owns where the user is: the place on top, the cursor, the selection, whether new lines are followed.
The log stays still while it is not: the place on top is a line, not a row, whatever comes.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from . import clipboard, wrap
from .bar import PatternBar
from .links import Link, links
from .model import LogModel
from .paint import Highlight, Look, Styles, margin, paint, rule
from .selection import Point, Selection
from .sgr import plain
from .store import MOST_BYTES, MOST_LINES, Kind
from .view import DROPPED, Place

if TYPE_CHECKING:
    from textual import events

    from .model import Direction, StreamName
    from .search import Matches
    from .store import Line

__all__ = ["LogPane"]

FRAME_S = 0.1  # between two frames while much comes
QUIET_FRAME_S = 0.03  # while little does: the first line of a run is seen at once
QUIET_ROWS = 40
SEARCH_SLICE_S = 0.008  # how long a search may keep the event loop
SIDEWAYS = 8  # cells
MOST_OSC52_BYTES = 74_000  # beyond it terminals drop the sequence or show it
LINE_END = 1 << 30


class LogPane(ScrollView, can_focus=True):
    """What runs print. See `action_*` for what can be done with it."""

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
    LogPane {
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
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "ask_find", "find"),
        Binding("n", "find_next", "next", show=False),
        Binding("N", "find_previous", "previous", show=False),
        Binding("ampersand", "ask_filter", "filter", show=False),
        Binding("plus", "context(1)", "filter: more context", show=False),
        Binding("minus", "context(-1)", "filter: less context", show=False),
        Binding("f", "toggle_follow", "tail"),
        Binding("end,G", "follow", "follow", show=False),
        Binding("home", "top", "top", show=False),
        Binding("e", "next_error", "err"),
        Binding("E", "previous_error", "previous error", show=False),
        Binding("w", "toggle_wrap", "wrap", show=False),
        Binding("t", "toggle_time", "timestamps", show=False),
        Binding("m", "toggle_mark", "mark", show=False),
        Binding("c", "clear_view", "clear", show=False),
        Binding("y", "copy", "copy", show=False),
        Binding("up", "line(-1)", "line up", show=False),
        Binding("down", "line(1)", "line down", show=False),
        Binding("shift+up", "select(-1)", "select up", show=False),
        Binding("shift+down", "select(1)", "select down", show=False),
        Binding("pageup", "page(-1)", "page up", show=False),
        Binding("pagedown", "page(1)", "page down", show=False),
        Binding("left", "sideways(-1)", "left", show=False),
        Binding("right", "sideways(1)", "right", show=False),
        Binding("escape", "dismiss", "drop selection, find, filter", show=False),
    ]

    class OpenFile(Message):
        """A file at a line (from 1) was clicked; `path` as the program printed it."""

        def __init__(self, path: str, line: int) -> None:
            super().__init__()
            self.path = path
            self.line = line

    class OpenUrl(Message):
        def __init__(self, url: str) -> None:
            super().__init__()
            self.url = url

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
        self._pressed: Point | None = None
        self._dragged = False
        self._wraps = False
        self._times = False
        self._left = 0
        self._placing = False
        self._jump: tuple[Matches, Direction, int] | None = None
        self._styles: Styles | None = None
        self._searching = False
        self._flush_planned = False
        self._flushed_at = 0.0
        self._rows_since = 0
        self._said_title = ""

    # What is fed

    def begin_run(self, number: int, title: str) -> None:
        """A separator with `title` ("run 14 · model.py changed"); later output is this run's."""
        self.model.begin_run(number, title)
        self._plan_flush()

    def end_run(self, number: int, title: str) -> None:
        self.model.end_run(number, title)
        self._plan_flush()

    def append(self, run: int, stream: StreamName, data: bytes, time_ns: int) -> None:
        """What a run printed, cut anywhere. `time_ns`: since 1970."""
        self.model.append(run, stream, data, time_ns)
        self._rows_since += data.count(b"\n")
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
    def link_at_cursor(self) -> Link | None:
        """The first thing that can be opened on the current line."""
        line = self._current
        found = links(plain(self.model.store.line(line).text)) if line is not None else ()
        return found[0] if found else None

    @property
    def title_text(self) -> str:
        """ "log · run 14 · FOLLOW · 18,204 lines · wrap off"."""
        model = self.model
        run = model.run_at(self._current or 0)
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
        self._search()

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
        if line.kind == Kind.SEPARATOR and not place.part:
            return rule(line.text, look, styles)
        return paint(
            line,
            place.part,
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

    def _plan_flush(self) -> None:
        if self._flush_planned or not self.is_mounted:
            return
        self._flush_planned = True
        frame_s = QUIET_FRAME_S if self._rows_since < QUIET_ROWS else FRAME_S
        delay_s = self._flushed_at + frame_s - time.monotonic()
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
        view.wrap_at(self.text_width if self._wraps else None)
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

    # What can be done

    def action_follow(self) -> None:
        """To the end, and on with it."""
        self._following, self._stays_paused = True, False
        self._cursor = self._selection = self._jump = None
        self._relayout()

    def action_pause(self) -> None:
        self._pause(stays=True)

    def action_toggle_follow(self) -> None:
        if self._following:
            self.action_pause()
        else:
            self.action_follow()

    def action_top(self) -> None:
        self._pause(stays=False)
        place = self.model.view.locate(0)
        if place is not None and place.line == DROPPED:
            place = self.model.view.locate(1)
        self._cursor = place.line if place is not None else None
        self._scroll_rows(0)
        self.refresh()
        self._show_title()

    def action_line(self, by: int) -> None:
        """The cursor up (-1) or down (1)."""
        self._selection = None
        self._move(by)

    def _move(self, by: int) -> None:
        current = self._current
        if current is None:
            return
        if by > 0 and current == self.model.view.last and not self._stays_paused:
            self.action_follow()
            return
        self._pause(stays=False)
        target = self.model.view.neighbour(current, by)
        if target is not None:
            self._cursor = target
            self._reveal(target)
            self._show_title()

    def action_page(self, by: int) -> None:
        self._selection = None
        if by < 0:
            self._pause(stays=False)
        row = self.scroll_offset.y + by * max(1, self._height - 1)
        if 0 < row < self.max_scroll_y:
            self._scroll_rows(row)
            self._clamp_cursor()
        elif by < 0:
            self.action_top()
        elif not self._stays_paused:
            self.action_follow()
        else:
            self._scroll_rows(self.max_scroll_y)
            self._cursor = self.model.view.last
        self.refresh()
        self._show_title()

    def action_sideways(self, by: int) -> None:
        """Only while lines are not wrapped."""
        furthest = max(0, self.model.store.widest() - self.text_width)
        self._left = min(max(0, self._left + by * SIDEWAYS), furthest)
        self.refresh()

    def action_select(self, by: int) -> None:
        """Whole lines, from the cursor on."""
        current = self._current
        if current is None:
            return
        self._pause(stays=True)
        before = self._selection
        if before is None:
            self._selection = Selection(Point(current, 0), Point(current, 0), whole_lines=True)
            self._cursor = current
        else:
            head = self.model.view.neighbour(before.head.line, by)
            head = before.head.line if head is None else head
            self._selection = Selection(before.anchor, Point(head, 0), before.whole_lines)
            self._cursor = head
        self._reveal(self._cursor)

    def action_copy(self) -> None:
        """The selection, or the current line: to the terminal's clipboard and to the desktop's."""
        text = self.selected_text()
        if text is None:
            return
        if len(text.encode()) <= MOST_OSC52_BYTES:
            self.app.copy_to_clipboard(text)
        self.run_worker(clipboard.put(text), group="log-copy", exit_on_error=False)
        lines = text.count("\n") + 1
        self.notify(f"copied {'1 line' if lines == 1 else f'{lines:,} lines'}", timeout=1.5)

    def selected_text(self) -> str | None:
        """The selection, or the current line; without colours."""
        if self._selection is not None:
            return self._selection.text(self.model.store, self.model.view)
        current = self._current
        return None if current is None else plain(self.model.store.line(current).text)

    def action_dismiss(self) -> None:
        """The selection; else what is looked for; else the filter."""
        if self._selection is not None:
            self._selection = None
        elif self.model.find is not None:
            self.action_find("")
        elif self.model.filter is not None:
            self.action_filter(None)
        self.refresh()

    def action_toggle_wrap(self) -> None:
        self._wraps = not self._wraps
        self._left = 0
        self._top = Place(self._top.line, 0)
        self._relayout()

    def action_toggle_time(self) -> None:
        self._times = not self._times
        self._relayout()

    def action_toggle_mark(self) -> None:
        """On the current line."""
        if (current := self._current) is not None:
            self.model.marks ^= {current}
            self.refresh()

    def action_clear_view(self) -> None:
        """Hides what there is; on an empty view, shows everything again. Nothing is deleted."""
        self.model.clear()
        self.action_follow()

    def action_show_run(self, number: int | None) -> None:
        """To the start of a run, if anything is left of it; None follows the newest."""
        if number is None:
            self.action_follow()
            return
        self.model.settle()
        start = self.model.run_start(number)
        if start is None:
            return
        if start < self.model.view.start:
            self.model.view.show_from(0)
        self._pause(stays=True)
        self._relayout()
        self._scroll_rows(self.model.view.row_of(start))
        self._cursor = start
        self._clamp_cursor()
        self.refresh()
        self._show_title()

    # Looking for something

    def action_ask_find(self) -> None:
        find = self.model.find
        self._ask(PatternBar(self, "find", find.pattern.source if find else ""))

    def action_ask_filter(self) -> None:
        kept = self.model.filter
        self._ask(PatternBar(self, "filter", kept.pattern.source if kept else ""))

    def _ask(self, bar: PatternBar) -> None:
        if isinstance(self.parent, Widget):
            self.parent.mount(bar)
            bar.focus()

    def action_find(self, pattern: str) -> None:
        """Marks what matches and goes to the newest of it that is not below the current line."""
        self.model.settle()
        self.model.look_for(pattern)
        if self.model.find is None:
            self._jump = None
            self._relayout()
        else:
            current = self._current
            self._go(
                self.model.find, "older", self.model.store.end if current is None else current + 1
            )

    def action_find_next(self) -> None:
        self._find_again("newer")

    def action_find_previous(self) -> None:
        self._find_again("older")

    def action_filter(self, pattern: str | None) -> None:
        """Shows only lines that match; None: all."""
        self.model.settle()
        self.model.keep_only(pattern, self.model.context)
        self._relayout()
        self._search()

    def action_context(self, by: int) -> None:
        """How many lines around each one that the filter keeps."""
        if self.model.filter is not None:
            self.model.set_context(max(0, self.model.context + by))
            self._relayout()

    def action_next_error(self) -> None:
        """The newest one while the log follows."""
        self._to_error("older" if self._following else "newer")

    def action_previous_error(self) -> None:
        self._to_error("older")

    def _find_again(self, direction: Direction) -> None:
        if self.model.find is not None:
            self._go(self.model.find, direction, self._from(direction))

    def _to_error(self, direction: Direction) -> None:
        self.model.settle()
        self._go(self.model.errors, direction, self._from(direction))

    def _from(self, direction: Direction) -> int:
        """The current line; while following, everything is older."""
        current = self._current
        if current is None or (self._following and direction == "older"):
            return self.model.store.end
        return current

    def _go(self, matches: Matches, direction: Direction, line: int) -> None:
        self._jump = (matches, direction, line)
        self.model.step()
        self._try_jump()
        self._relayout()
        self._search()

    def _try_jump(self) -> None:
        if self._jump is None:
            return
        line, is_certain = self.model.nearest(*self._jump)
        if is_certain:
            matches = self._jump[0]
            self._jump = None
            if line is not None:
                self._go_to(line)
            elif matches is not self.model.find:
                self.notify("no error in the log", timeout=1.5)

    def _search(self) -> None:
        """On with the search, if something was not looked at yet."""
        if self.is_mounted and not self._searching and self.model.step():
            self._searching = True
            self._search_all()

    @work(group="log-search")
    async def _search_all(self) -> None:
        """A slice at a time, with the event loop free between two."""
        try:
            goes_on = True
            while goes_on:
                until = time.monotonic() + SEARCH_SLICE_S
                while (goes_on := self.model.step()) and time.monotonic() < until:
                    pass
                self._try_jump()
                self._plan_flush()
                await asyncio.sleep(0)
        finally:
            self._searching = False
        self._relayout()

    # The mouse

    def _point_at(self, event: events.MouseEvent) -> Point | None:
        """The character under the pointer; past a line's end, its end."""
        x, y = event.get_content_offset_capture(self)
        row = min(max(0, self.scroll_offset.y + y), self.model.view.row_count - 1)
        place = self.model.view.locate(row)
        if place is None or place.line == DROPPED:
            return None
        text = plain(self.model.store.line(place.line).text)
        cell = max(0, x - margin(self._look)) + self._look.left
        if self._wraps:
            starts = wrap.starts(text, self.text_width)
            cell += starts[min(place.part, len(starts) - 1)]
        return Point(place.line, wrap.column_at(text, cell))

    def on_mouse_down(self, event: events.MouseDown) -> None:
        if event.button == 1:
            self._pressed, self._dragged = self._point_at(event), False
            self.capture_mouse()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self._pressed is None:
            return
        _, y = event.get_content_offset_capture(self)
        if y < 0 or y >= self._height:
            self._pause(stays=True)
            self._scroll_rows(self.scroll_offset.y + (-1 if y < 0 else 1))
        point = self._point_at(event)
        if point is not None and (self._dragged or point != self._pressed):
            self._dragged = True
            self._pause(stays=True)
            self._selection = Selection(self._pressed, point)
            self._cursor = point.line
            self.refresh()

    def on_mouse_up(self, event: events.MouseUp) -> None:
        pressed, self._pressed = self._pressed, None
        self.release_mouse()
        if pressed is None or self._dragged or event.button != 1:
            return
        self._selection = None
        if not self._following:
            self._cursor = pressed.line
            self._show_title()
        self.refresh()
        self._open(pressed)

    def on_click(self, event: events.Click) -> None:
        """Twice: a word. Three times: the line."""
        point = self._point_at(event) if event.chain > 1 and not self._dragged else None
        if point is None:
            return
        text = plain(self.model.store.line(point.line).text)
        start, end = _word(text, point.column) if event.chain == 2 else (0, LINE_END)
        self._pause(stays=True)
        self._selection = Selection(Point(point.line, start), Point(point.line, end))
        self.refresh()

    def _open(self, point: Point) -> None:
        for link in links(plain(self.model.store.line(point.line).text)):
            if link.start <= point.column < link.end:
                message = (
                    self.OpenUrl(link.url) if link.url else self.OpenFile(link.path, link.line)
                )
                self.post_message(message)


def _count_words(sigil: str, matches: Matches | None) -> str:
    if matches is None:
        return ""
    return f"{sigil}{matches.pattern.source} {matches.count:,} found"


def _word(text: str, column: int) -> tuple[int, int]:
    """The first and the last character of what lies between blanks."""
    start = text.rfind(" ", 0, column) + 1
    end = text.find(" ", column)
    return start, (len(text) if end < 0 else end) - 1
