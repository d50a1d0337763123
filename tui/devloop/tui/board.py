"""The screen as a picture of the view: which panes there are, and when they are drawn.

Owns layout and frames. What is true is the view's (`state.py`), how it reads is that of
`header.py`, `vitals.py` and `details.py`; what keys do is `app.py`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical

from .cards import card
from .details import runs_title, sync_pane
from .header import cycle_line, header, progress_line, status_line
from .keys import footer
from .log.pane import LogPane
from .panes import Lines, LinesPane, RunsPane
from .spans import Line, Span
from .state import Link, View
from .vitals import gpu_pane, gpu_title, vitals_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from textual import events
    from textual.app import ComposeResult
    from textual.driver import Driver
    from textual.geometry import Size
    from textual.widget import Widget

    from devloop.sync.progress import Progress

    from .state import RunRow

__all__ = ["PANES", "WIDE_COLUMNS", "Board"]

FRAME_S = 0.1
SOON_S = 0.03  # the log goes first
SLOW_FRAME_S = 1.0  # of what only gets older, and of samples
IDLE_FRAME_S = 2.0
LIVELY_S = 20.0  # so long a run's clock shows tenths
PROGRESS_AFTER_S = 0.25
WIDE_COLUMNS = 100
SMALL = (60, 12)
PANES = ("log", "gpu", "sync", "runs")
LINES = ("head", "cycle", "vitals", "progress", "card", "keys")  # the first four on top


class _Log(LogPane, inherit_bindings=False):
    """Without the keys that the whole screen has: those can be remapped."""

    BINDINGS: ClassVar[list[BindingType]] = [
        binding
        for binding in LogPane.BINDINGS
        if isinstance(binding, Binding)
        and binding.action.partition("(")[0]
        in ("line", "select", "page", "sideways", "top", "context")
        and binding.key not in ("j", "k", "g", "space")
    ]


class Board(App[None]):
    """Call `touch` when something has changed. `keys`: those that are remapped."""

    CSS = """
    Screen { layout: vertical; }
    #head, #cycle, #vitals, #keys { height: 1; }
    #head { background: $panel; }
    #keys { background: $panel; }
    #body { height: 1fr; }
    #main { width: 1fr; }
    #side { width: 37%; min-width: 42; max-width: 66; padding-left: 1; }
    #side.alone { width: 1fr; max-width: 100%; padding-left: 0; }
    #gpu { height: 1fr; }
    #sync { height: auto; max-height: 11; }
    #runs { height: 1fr; max-height: 100%; }
    .alone #sync { height: 1fr; max-height: 100%; }
    #card { height: auto; max-height: 12; background: $panel; border-top: solid $error; }
    LogPane { background: $background; }
    ToastRack { dock: top; align: right top; margin: 2 0 0 0; }  /* the card is at the bottom */
    LogPane.bare { border-top: none; }
    """

    def __init__(
        self,
        view: View,
        progress: Progress,
        keys: Mapping[str, str],
        clock: Callable[[], float],
        driver_class: type[Driver],
    ) -> None:
        super().__init__(driver_class=driver_class)
        self._view = view
        self._progress = progress
        self._keys = keys
        self._clock = clock
        self._current = "log"
        self._is_zoomed = False
        self._area: Size | None = None
        self._closed_card: object = None
        self._is_composed = False
        self._is_dirty = False
        self._drawn_s = 0.0

    @property
    def view(self) -> View:
        return self._view

    @property
    def is_hidden(self) -> bool:
        """The terminal is another program's: nothing is drawn."""
        return False

    @property
    def shown_row(self) -> RunRow | None:
        """The run that the user has chosen to look at; None: the newest."""
        return None

    def compose(self) -> ComposeResult:
        self._log_pane = _Log(id="log")
        self._gpu, self._sync, self._runs = LinesPane("gpu"), LinesPane("sync"), RunsPane("runs")
        self._main, self._side = Vertical(self._log_pane, id="main"), Vertical(id="side")
        self._lines = {name: Lines(name) for name in LINES}
        yield from (self._lines[name] for name in LINES[:4])
        with Horizontal(id="body"):
            yield self._main
            with self._side:
                yield from (self._gpu, self._sync, self._runs)
        yield from (self._lines[name] for name in LINES[4:])

    @property
    def log_pane(self) -> LogPane:
        return self._log_pane

    @property
    def _panes(self) -> dict[str, Widget]:
        return {"log": self._log_pane, "gpu": self._gpu, "sync": self._sync, "runs": self._runs}

    def on_mount(self) -> None:
        self._is_composed = True
        self.log_pane.focus()
        self._arrange()
        self._animation = self.set_interval(FRAME_S, self._draw_frame, pause=True)
        self.draw()
        self.set_interval(SLOW_FRAME_S, self._get_older)

    # -- drawing

    def on_resize(self, event: events.Resize) -> None:
        self._arrange(event.size)

    def _arrange(self, size: Size | None = None) -> None:
        """Which panes there is room for. `size`: the terminal's, where it is about to change."""
        if not self._is_composed:
            return
        columns, rows = self._area = size or self._area or self.size
        is_small = columns < SMALL[0] or rows < SMALL[1]
        is_wide = columns >= WIDE_COLUMNS and not is_small
        alone = self._is_zoomed or not is_wide
        for name in PANES[1:]:
            self._panes[name].display = not alone or self._current == name
        self._main.display = not alone or self._current == "log"
        self._side.display = not alone or self._current != "log"
        self._side.set_class(alone, "alone")
        self._lines["vitals"].display = not is_wide and not is_small
        self._lines["cycle"].display = not is_small
        self._lines["keys"].display = not is_small
        self.log_pane.set_class(is_small, "bare")
        self.touch()

    def on_resized(self) -> None:
        """A pane, once the layout is done: what was drawn before then is of the old width."""
        self.touch()

    @property
    def is_drawn(self) -> bool:
        """Nothing waits to be drawn but what gets older."""
        return not self._is_dirty

    def touch(self) -> None:
        """Something is another: it is seen within a frame, and at once when little happens."""
        if self._is_dirty or not self._is_composed:
            return
        self._is_dirty = True
        delay_s = max(self._drawn_s + FRAME_S - self._clock(), SOON_S)
        self.set_timer(delay_s, self._draw_if_dirty)

    def _draw_if_dirty(self) -> None:
        if self._is_dirty and not self.is_hidden:
            self.draw()

    def _get_older(self) -> None:
        """Less often while nothing runs: a screen that nobody looks at costs next to nothing."""
        period_s = SLOW_FRAME_S if self._view.live is not None else IDLE_FRAME_S
        if not self.is_hidden and self._clock() - self._drawn_s > 0.9 * period_s:
            self.draw()

    def _draw_frame(self) -> None:
        """What counts tenths of a second, while it is worth it."""
        if not self.is_hidden:
            self._draw_head(self._clock())

    def _is_lively(self, now_s: float) -> bool:
        live = self._view.live
        is_young = live is not None and live.duration_s(now_s) < LIVELY_S
        return is_young or self._progress.step is not None or self._view.link is Link.LOST

    def draw(self) -> None:
        """Everything that is in sight and has changed."""
        now_s = self._clock()
        self._is_dirty, self._drawn_s = False, now_s
        if self._is_lively(now_s):
            self._animation.resume()
        else:
            self._animation.pause()
        view, columns = self._view, self.size.width
        is_small = not self._lines["keys"].display
        self._draw_head(now_s)
        if not is_small:
            self._lines["cycle"].show([cycle_line(view, columns, self.shown_row)])
            self._lines["keys"].show([self._footer(columns)])
        if self._lines["vitals"].display:
            self._lines["vitals"].show([vitals_line(view, columns, now_s)])
        self._draw_card(columns, now_s, is_small=is_small)
        self._draw_side(now_s)

    def _draw_head(self, now_s: float) -> None:
        progress, columns = self._progress, self.size.width
        head = header if self._lines["keys"].display else status_line
        self._lines["head"].show([head(self._view, progress, columns, now_s)])
        self._draw_progress(columns)

    def _draw_progress(self, columns: int) -> None:
        progress = self._progress
        is_long = progress.step is not None and (
            self._clock() - progress.began_s > PROGRESS_AFTER_S
        )
        now_s, warmth = self._clock(), self._view.warmth
        line = progress_line(progress, columns, now_s, warmth) if is_long else []
        self._show_or_hide("progress", [line] if line else [])

    def _draw_card(self, columns: int, now_s: float, *, is_small: bool) -> None:
        is_closed = self._closed_card is not None and self._closed_card == self._card_of()
        lines = [] if is_small or is_closed else card(self._view, columns, now_s)
        self._show_or_hide("card", lines)

    def close_card(self) -> None:
        self._closed_card = self._card_of()
        self.touch()

    def _card_of(self) -> object:
        """What the card is about: once closed, it stays closed for the same."""
        view, row = self._view, self._view.newest
        return view.link is Link.OVER and view.link_lost_s, row.number if row is not None else 0

    def _show_or_hide(self, name: str, lines: list[Line]) -> None:
        widget = self._lines[name]
        widget.display = bool(lines)
        if lines:
            widget.show(lines)

    def _draw_side(self, now_s: float) -> None:
        view, gpu, sync, runs = self._view, self._gpu, self._sync, self._runs
        if not self._side.display:
            return
        if gpu.display:
            width, height = gpu.scrollable_content_region.size
            is_zoomed = self._current == "gpu" and (
                self._is_zoomed or self.size.width < WIDE_COLUMNS
            )
            gpu.show(gpu_title(view), gpu_pane(view, width, height, now_s, zoomed=is_zoomed))
        if sync.display:
            width = sync.scrollable_content_region.width
            sync.show("SYNC", sync_pane(view, self._progress, width, now_s))
        if runs.display:
            rows = list(reversed(view.runs.values()))
            width = runs.scrollable_content_region.width
            runs.show(runs_title(len(rows), width), rows, now_s)

    def _footer(self, columns: int) -> Line:
        line: Line = []
        for sign, word in footer(columns, self._keys):
            line += [Span(f" {sign}", "accent"), Span(f" {word}")]
        return line
