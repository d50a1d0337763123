"""The log pane: turns keys, clicks and patterns into what they mean for the log.

Owns the actions: moving, selecting, finding, opening. The picture is the canvas's (`canvas.py`).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget

from . import clipboard, wrap
from .bar import PatternBar
from .canvas import LogCanvas
from .links import Link, links
from .paint import margin
from .rows import LONGEST_ROW, without_mark
from .selection import Point, Selection
from .sgr import plain
from .store import MOST_BYTES, MOST_LINES
from .view import DROPPED, Place

if TYPE_CHECKING:
    from textual import events

    from .model import Direction
    from .search import Matches

__all__ = ["LogPane"]

SEARCH_SLICE_S = 0.008  # how long a search may keep the event loop
SIDEWAYS = 8  # cells
MOST_OSC52_BYTES = 74_000  # beyond it terminals drop the sequence or show it
LINE_END = 1 << 30


class LogPane(LogCanvas):
    """What runs print. See `action_*` for what can be done with it."""

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
        Binding("j", "line(1)", "line down", show=False),
        Binding("k", "line(-1)", "line up", show=False),
        Binding("space", "page(1)", "page down", show=False),
        Binding("g", "top", "top", show=False),
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

    class StateChanged(LogCanvas.StateChanged):
        """The title is another one."""

    def __init__(
        self,
        *,
        most_lines: int = MOST_LINES,
        most_bytes: int = MOST_BYTES,
        id: str | None = None,  # noqa: A002 - Textual's name
        classes: str | None = None,
    ) -> None:
        super().__init__(most_lines=most_lines, most_bytes=most_bytes, id=id, classes=classes)
        self._pressed: Point | None = None
        self._dragged = False
        self._jump: tuple[Matches, Direction, int] | None = None
        self._searching = False

    def flush(self) -> None:
        super().flush()
        self._search()

    @property
    def link_at_cursor(self) -> Link | None:
        """The first thing that can be opened on the current line."""
        line = self._current
        found = links(plain(self.model.store.line(line).text)) if line is not None else ()
        return found[0] if found else None

    # What can be done

    def action_follow(self) -> None:
        """To the end, and on with it."""
        self._jump = None
        super().action_follow()

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
        lines = text.split("\n")
        count = "1 line" if len(lines) == 1 else f"{len(lines):,} lines"
        is_cut = max(map(len, lines)) >= LONGEST_ROW
        words = f", as far as it is kept: {LONGEST_ROW:,} characters" if is_cut else ""
        self.notify(f"copied {count}{words}", timeout=1.5)

    def selected_text(self) -> str | None:
        """The selection, or the current line; without colours."""
        if self._selection is not None:
            return self._selection.text(self.model.store, self.model.view)
        current = self._current
        return None if current is None else without_mark(plain(self.model.store.line(current).text))

    @property
    def is_plain(self) -> bool:
        """Nothing is selected, looked for or filtered out."""
        return not self.has_selection and self.model.find is None and self.model.filter is None

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

    async def action_ask_find(self) -> None:
        find = self.model.find
        await self._ask(PatternBar(self, "find", find.pattern.source if find else ""))

    async def action_ask_filter(self) -> None:
        kept = self.model.filter
        await self._ask(PatternBar(self, "filter", kept.pattern.source if kept else ""))

    async def _ask(self, bar: PatternBar) -> None:
        """It has the focus at once: the next key may have been typed already."""
        if isinstance(self.parent, Widget):
            await self.parent.mount(bar)
            self.screen.set_focus(bar)

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
        cell = max(0, x - margin(self._look))
        starts = self.model.view.starts(place.line)
        if self._wraps or len(starts) > 1:
            cell += starts[min(place.part, len(starts) - 1)]
        else:
            cell += self._look.left
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


def _word(text: str, column: int) -> tuple[int, int]:
    """The first and the last character of what lies between blanks."""
    start = text.rfind(" ", 0, column) + 1
    end = text.find(" ", column)
    return start, (len(text) if end < 0 else end) - 1
