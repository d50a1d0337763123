"""The screen of `devloop up`: widgets around one view, and an action for each key.

Owns the layout, when to draw, and what a key does. What is true is the view's (`state.py`), how it
reads is that of `header.py`, `vitals.py` and `details.py`; the session is the feed's (`feed.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import App, SuspendNotSupported, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen, Screen

from devloop.sync.events import (
    Connected,
    Notice,
    Paused,
    Pulled,
    Reconnecting,
    RunFinished,
    RunStarted,
    Skipped,
    Waiting,
)
from devloop.sync.model import LogRecord, LogStream

from .details import card, ended_words, started_words, sync_pane
from .dialogs import AskCommand, AskLeave, Help
from .driver import TerminalDriver
from .feed import Feed
from .header import cycle_line, header, progress_line, status_line
from .keys import KEYS, footer
from .log.pane import LogPane
from .panes import Lines, LinesPane, RunsPane
from .programs import editor_argv, local_path, pager_argv
from .spans import Line, Span
from .state import Link, View
from .themes import THEMES, theme_for
from .vitals import gpu_pane, gpu_title, vitals_line
from .words import plain, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from textual import events
    from textual.app import ComposeResult
    from textual.geometry import Size
    from textual.widget import Widget

    from devloop.cafs.errors import DevloopError
    from devloop.sync.events import SessionEvent
    from devloop.sync.metrics import Sample

    from .dialogs import LeaveChoice
    from .ground import Ground
    from .state import RunRow

__all__ = ["UpApp"]

FRAME_S = 0.1
SLOW_FRAME_S = 1.0  # of what only gets older
LIVELY_S = 20.0  # so long a run's clock shows tenths
PROGRESS_AFTER_S = 0.25
AGAIN_WITHIN_S = 2.0  # a second Ctrl-C
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
    ]


class UpApp(App[None]):
    """Run it with `run_async`; what is left to say is then in `last_words`."""

    ENABLE_COMMAND_PALETTE = True
    TITLE = "devloop"
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
    LogPane.bare { border-top: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(key.keys, key.action, key.words, show=False, id=key.name, priority=key.is_priority)
        for key in KEYS
    ]

    def __init__(self, ground: Ground, clock: Callable[[], float] = time.monotonic) -> None:
        no_color = os.environ.get("NO_COLOR")
        super().__init__(driver_class=TerminalDriver)
        if no_color is not None:  # Textual takes it away, and runs would not see it
            os.environ["NO_COLOR"] = no_color
        self.last_words: list[str] = []
        self._ground = ground
        self._clock = clock
        facts = ground.facts
        self._view = View(facts.target, ground.command, facts.project)
        self._feed = Feed(ground, self, self._lent)
        self._current = "log"
        self._is_zoomed = False
        self._area: Size | None = None
        self._is_lent = False
        self._closed_card: object = None
        self._shown_run: int | None = None  # None: the newest
        self._is_composed = False
        self._is_dirty = False
        self._drawn_s = 0.0
        self._interrupted_s = -AGAIN_WITHIN_S
        self._lost_reasons: set[str] = set()
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = theme_for(facts.theme)
        self.set_keymap(dict(facts.keys))

    @property
    def view(self) -> View:
        return self._view

    # -- widgets

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
        self._listen_to_signals()
        if isinstance(self._driver, TerminalDriver):
            loop = asyncio.get_running_loop()
            self._driver.on_gone = lambda: _call_on(loop, self._terminal_gone)
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """The screen is there: now to what takes time."""
        gc.enable()
        gc.freeze()
        if self._ground.command:
            self._start_feed()
        else:
            suggested = self._ground.suggested_command()
            ask = AskCommand(self._ground.facts.root, suggested, self._take_command)
            self.push_screen(ask, self._command_asked)

    def _take_command(self, text: str) -> str:
        from devloop.cafs.errors import DevloopError

        try:
            self._ground.set_command(text)
        except DevloopError as error:
            return str(error)
        self._view.command = self._ground.command
        return ""

    def _command_asked(self, is_known: bool | None) -> None:
        if is_known:
            self._start_feed()
        else:
            self.exit()

    def _start_feed(self) -> None:
        self.run_worker(self._feed.run(), name="feed", group="feed")

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
        self._touch()

    def _touch(self) -> None:
        """Something is another: it is seen within a frame, and at once when little happens."""
        if self._is_dirty or not self._is_composed:
            return
        self._is_dirty = True
        self.set_timer(max(self._drawn_s + FRAME_S - self._clock(), 0.001), self._draw_if_dirty)

    def _draw_if_dirty(self) -> None:
        if self._is_dirty and not self._is_lent:
            self.draw()

    def _get_older(self) -> None:
        if not self._is_lent:
            self.draw()

    def _draw_frame(self) -> None:
        """What counts tenths of a second, while it is worth it."""
        if not self._is_lent:
            self._draw_head(self._clock())

    def _is_lively(self, now_s: float) -> bool:
        live = self._view.live
        is_young = live is not None and live.duration_s(now_s) < LIVELY_S
        return is_young or self._ground.progress.step is not None or self._view.link is Link.LOST

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
            self._lines["cycle"].show([cycle_line(view, columns)])
            self._lines["keys"].show([self._footer(columns)])
        if self._lines["vitals"].display:
            self._lines["vitals"].show([vitals_line(view, columns, now_s)])
        self._draw_card(columns, now_s, is_small=is_small)
        self._draw_side(now_s)

    def _draw_head(self, now_s: float) -> None:
        progress, columns = self._ground.progress, self.size.width
        head = header if self._lines["keys"].display else status_line
        self._lines["head"].show([head(self._view, progress, columns, now_s)])
        self._draw_progress(columns)

    def _draw_progress(self, columns: int) -> None:
        progress = self._ground.progress
        is_long = progress.step is not None and (
            time.monotonic() - progress.began_s > PROGRESS_AFTER_S
        )
        line = progress_line(progress, columns, time.monotonic()) if is_long else []
        self._show_or_hide("progress", [line] if line else [])

    def _draw_card(self, columns: int, now_s: float, *, is_small: bool) -> None:
        is_closed = self._closed_card is not None and self._closed_card == self._card_of()
        lines = [] if is_small or is_closed else card(self._view, columns, now_s)
        self._show_or_hide("card", lines)

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
            sync.show("SYNC", sync_pane(view, self._ground.progress, width, now_s))
        if runs.display:
            rows = list(reversed(view.runs.values()))
            runs.show(f"RUNS · {len(rows)}", rows, now_s)

    def _footer(self, columns: int) -> Line:
        line: Line = []
        for sign, word in footer(columns, self._ground.facts.keys):
            line += [Span(f" {sign}", "accent"), Span(f" {word}")]
        return line

    # -- what the feed tells

    def opening(self) -> None:
        self._view.opening()
        self._touch()

    def event(self, event: SessionEvent) -> None:
        was_lost = self._view.link is Link.LOST
        self._view.handle(event, self._clock())
        match event:
            case LogRecord():
                self._on_record(event)
                return
            case RunStarted(run):
                self._on_started(event, self._view.runs[run.number])
            case RunFinished(run):
                row = self._view.runs.get(run.number)
                if row is not None:
                    self.log_pane.end_run(run.number, ended_words(row))
            case Reconnecting(reason):
                if reason not in self._lost_reasons:
                    self._lost_reasons.add(reason)
                    self._tell(f"link lost: {reason}", "", "warning")
            case Connected():
                self._lost_reasons.clear()
                if was_lost:
                    self._tell("connected again", "", "success")
            case Notice(text, hint):
                self._tell(text, hint, "info")
            case Waiting(runs):
                numbers = ", ".join(map(str, runs))
                self._tell(
                    f"run {numbers} uses another version of these files: waiting", "", "info"
                )
            case Skipped(problems):
                for problem in problems[:5]:
                    self._tell(f"skipped {problem.path}: {problem.reason}", "", "warning")
            case Pulled(files, size_bytes, kept):
                if files:
                    self._tell(f"pulled {files} outputs, {size(size_bytes)}", "", "dim")
                for path in kept:
                    self._tell(
                        f"kept {os.fsdecode(path)}: it was there before, and differs", "", "info"
                    )
            case Paused(paused):
                words = (
                    "paused: saves are noted, nothing runs" if paused else "running on save again"
                )
                self._tell(words, "", "info")
            case _:
                pass
        self._touch()

    def _on_record(self, record: LogRecord) -> None:
        log = self.log_pane
        match record.stream:
            case LogStream.STDOUT:
                log.append(record.run, "stdout", record.data, record.time_ns)
            case LogStream.STDERR:
                log.append(record.run, "stderr", record.data, record.time_ns)
            case LogStream.DEVLOOP:
                log.note(plain(record.data.decode(errors="replace").rstrip("\n")), "info")
            case LogStream.GAP:
                words = f"{record.dropped_bytes:,} bytes of output are missing here"
                log.note(f"{words}: the log was at its size limit", "warning")

    def _on_started(self, event: RunStarted, row: RunRow) -> None:
        log = self.log_pane
        for aside in event.saved_aside:
            path, kept = os.fsdecode(aside.path), os.fsdecode(aside.kept_at)
            self._tell(f"{path} had changed on the box; that version is kept at {kept}", "", "info")
        if self._shown_run is not None and log.is_following:
            self._shown_run = None
        log.begin_run(row.number, started_words(row))
        if row.start_note:
            log.note(f"{row.start_kind} start: {plain(row.start_note)}", "dim")

    def sample(self, sample: Sample) -> None:
        self._view.sample(sample, self._clock())
        self._touch()

    def round_trip(self, rtt_s: float) -> None:
        self._view.rtt_s = rtt_s

    def over(self, error: DevloopError | None) -> None:
        self._view.session_over(error, self._clock())
        self._touch()

    def _tell(self, text: str, hint: str, style: str) -> None:
        """In the log, and where the log's end is out of sight, in front of it."""
        log = self.log_pane
        log.note(plain(text), style)
        if hint:
            log.note(f"hint: {plain(hint)}", "dim")
        if not log.is_following or not log.display:
            self.notify(plain(text), markup=False, timeout=4)
        if self._view.leaving:
            self.last_words.append(text + (f"\nhint: {hint}" if hint else ""))

    # -- runs

    def action_rerun(self) -> None:
        if self._view.link is Link.OVER:
            self._feed.again()
        elif self._feed.loop is not None:
            self._feed.loop.rerun()
            self._shown_run = None
            self.log_pane.action_follow()

    def action_stop(self) -> None:
        if self._feed.loop is not None:
            self._feed.loop.stop()

    def action_kill(self) -> None:
        """The loop kills what it has been asked to stop, and is asked again."""
        self.action_stop()
        self.action_stop()

    def action_pause(self) -> None:
        if self._feed.loop is not None:
            self._feed.loop.pause(not self._view.is_paused)

    def action_interrupt(self) -> None:
        before, self._interrupted_s = self._interrupted_s, self._clock()
        if self._view.leaving:
            self._feed.leave(kill=True)
        elif isinstance(self.screen, ModalScreen):
            self.pop_screen()
        elif self.log_pane.has_selection:
            self.log_pane.action_copy()
        elif self._view.live is not None and self._feed.loop is not None:
            self._tell(f"interrupting run {self._view.live.number}", "", "info")
            self._feed.loop.interrupt()
        elif self._interrupted_s - before < AGAIN_WITHIN_S:
            self._leave()
        else:
            self.notify("Ctrl-C again to leave", timeout=AGAIN_WITHIN_S)

    def action_run_step(self, by: int) -> None:
        numbers = list(self._view.runs)
        if not numbers:
            return
        shown = self._shown_run if self._shown_run in self._view.runs else numbers[-1]
        at = min(max(numbers.index(shown) + by, 0), len(numbers) - 1) if shown else 0
        self._show_run(numbers[at])

    def on_runs_pane_chosen(self, event: RunsPane.Chosen) -> None:
        self._show_run(event.number)
        if not self._main.display:
            self.action_pane("log")

    def _show_run(self, number: int) -> None:
        newest = self._view.newest
        is_newest = newest is not None and newest.number == number
        self._shown_run = None if is_newest and newest is not None and newest.is_live else number
        self.log_pane.action_show_run(self._shown_run)

    # -- the log

    async def action_log(self, name: str) -> None:
        await self.run_action(name, self.log_pane)

    def action_open(self) -> None:
        link = self.log_pane.link_at_cursor if not self.log_pane.is_following else None
        failure = self._view.newest.failure if self._view.newest is not None else None
        if link is not None and link.path:
            self._edit(link.path, link.line)
        elif failure is not None and failure.place is not None and self._lines["card"].display:
            self._edit(failure.place.path, failure.place.line)
        elif number := self._shown_run or (self._view.newest and self._view.newest.number):
            self._run_in_terminal(pager_argv(self._ground.verb("logs", str(number))))

    def on_log_pane_open_file(self, event: LogPane.OpenFile) -> None:
        self._edit(event.path, event.line)

    def on_log_pane_open_url(self, event: LogPane.OpenUrl) -> None:
        self.open_url(event.url)

    def _edit(self, path: str, line: int) -> None:
        found = local_path(Path(self._ground.facts.root), path)
        if found is None:
            self.notify(f"{plain(path)} is no file of this project", markup=False)
        else:
            self._run_in_terminal(editor_argv(os.environ, found, line))

    # -- other programs in the terminal

    def action_shell(self) -> None:
        self._run_in_terminal(self._ground.verb("shell"))

    def _run_in_terminal(self, argv: Sequence[str]) -> None:
        self.run_worker(self._run_program(argv), group="terminal", exclusive=True)

    async def _run_program(self, argv: Sequence[str]) -> None:
        """The loop and the log go on meanwhile."""
        try:
            with self._lent():
                process = await asyncio.create_subprocess_exec(*argv)
                await process.wait()
        except SuspendNotSupported:
            self.notify("this terminal cannot be lent", severity="warning")
        except OSError as error:
            self.notify(f"{argv[0]}: {error.strerror}", severity="error", markup=False)

    @contextlib.contextmanager
    def _lent(self) -> Iterator[None]:
        """The terminal is another program's."""
        with self.suspend():
            self._is_lent = True
            try:
                yield
            finally:
                self._is_lent = False
        self.refresh(layout=True)
        self._is_dirty = False
        self._touch()

    # -- panes

    def action_pane(self, name: str) -> None:
        self._current = name
        self._arrange()
        self._panes[name].focus()

    def action_focus_next(self) -> None:
        self._step_focus(1)

    def action_focus_previous(self) -> None:
        self._step_focus(-1)

    def _step_focus(self, by: int) -> None:
        if isinstance(self.screen, ModalScreen):
            _ = self.screen.focus_next() if by > 0 else self.screen.focus_previous()
        else:
            self.action_pane(PANES[(PANES.index(self._current) + by) % len(PANES)])

    def on_descendant_focus(self) -> None:
        """By the mouse."""
        focused = self.screen_stack[0].focused
        if focused is not None and focused.id in PANES:
            self._current = focused.id

    def action_zoom(self) -> None:
        self._is_zoomed = not self._is_zoomed
        self._arrange()

    def action_close_card(self) -> None:
        """Or, one after another, what else is in the way: a selection, a search, a zoom."""
        log = self.log_pane
        if log.has_selection or log.model.find is not None or log.model.filter is not None:
            log.action_dismiss()
        elif self._is_zoomed:
            self.action_zoom()
        else:
            self._closed_card = self._card_of()
            self._touch()

    def action_help(self) -> None:
        self.push_screen(Help(self._ground.facts.keys))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        for key in KEYS:
            if key.name not in ("palette", "next_pane", "previous_pane", "interrupt"):
                words = key.words[0].upper() + key.words[1:]
                yield SystemCommand(words, f"key {key.keys}", self._runner(key.action))
        yield SystemCommand("Change the theme", "colours", self.action_change_theme)

    def _runner(self, action: str) -> Callable[[], None]:
        def run() -> None:
            self.call_later(self.run_action, action, self)

        return run

    # -- leaving

    def action_leave(self) -> None:
        live = self._view.live
        if self._view.leaving:
            self._feed.leave(kill=True)
        elif live is not None:
            self.push_screen(AskLeave(live.number), self._leave_chosen)
        else:
            self._leave()

    def _leave_chosen(self, choice: LeaveChoice | None) -> None:
        if choice is not None:
            self._leave(keep=choice == "keep")

    async def action_quit(self) -> None:
        self.action_leave()

    def action_detach(self) -> None:
        self._leave(keep=True)

    def _leave(self, *, keep: bool = False) -> None:
        if self._view.leaving:
            return
        live = self._view.live
        if live is None:
            self._view.leaving = "…"
        elif keep:
            self._view.leaving = f"run {live.number} goes on"
            self.last_words.append(
                f"run {live.number} goes on; `devloop attach {live.number}` comes back to it"
            )
        else:
            self._view.leaving = f"stopping run {live.number}; q again kills it"
        self.draw()
        self.run_worker(self._exit_after_feed(keep=keep), group="leaving")

    async def _exit_after_feed(self, *, keep: bool) -> None:
        self._feed.leave(keep=keep)
        feeds = [worker for worker in self.workers if worker.group == "feed"]
        if feeds:
            await self.workers.wait_for_complete(feeds)
        self.exit()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(
            ValueError, NotImplementedError, RuntimeError
        ):  # not the main thread
            loop.add_signal_handler(signal.SIGINT, self._interrupted)
            for number in (signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, self._told_to_end)

    def _interrupted(self) -> None:
        """From outside, or meant for the program that has the terminal."""
        if not self._is_lent:
            self.action_interrupt()

    def _told_to_end(self) -> None:
        if self._view.leaving:
            self._feed.leave(kill=True)
        else:
            self._leave()

    def _terminal_gone(self) -> None:
        self._told_to_end()


def _call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # it has ended meanwhile
        loop.call_soon_threadsafe(call)
