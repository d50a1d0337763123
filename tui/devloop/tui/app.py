"""The screen of `devloop up`: what it hears of the session, and what each key does.

Owns the actions and the way out. The picture is the board's (`board.py`), what is true the view's
(`state.py`), the session the feed's (`feed.py`). What comes in front of the rest is imported when
it is asked for: the first picture does not wait for it.
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

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, Screen
from textual.widgets import Input

from devloop.cafs.errors import DevloopError
from devloop.sync.events import (
    Connected,
    Reconfigured,
    Reconnecting,
    RunFinished,
    RunLost,
    RunStarted,
)
from devloop.sync.model import LogRecord, LogStream

from . import programs
from .board import PANES, Board
from .details import ended_words, started_words
from .driver import TerminalDriver
from .feed import Feed
from .keys import KEYS, key_words, keymap
from .lending import GROUP as LENT
from .lending import Lender
from .log.bar import PatternBar
from .log.pane import LogPane
from .panes import RunsPane
from .programs import debugger_words, local_path
from .state import Link, View
from .telling import Said, note_of, said_of
from .themes import THEMES, names_of, theme_for
from .words import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from devloop.sync.events import SessionEvent
    from devloop.sync.loop import Loop
    from devloop.sync.metrics import Sample

    from .dialogs import LeaveChoice
    from .ground import Ground
    from .log.model import StreamName
    from .state import RunRow

__all__ = ["UpApp"]

AGAIN_WITHIN_S = 2.0  # a second Ctrl-C
OPENING = (("log", "ask_find"), ("log", "ask_filter"), ("leave",))


class UpApp(Board):
    """Run it with `run_async`; what is left to say is then in `last_words`."""

    ENABLE_COMMAND_PALETTE = True
    TITLE = "devloop"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(key.keys, key.action, key.words, show=False, id=key.name, priority=is_first)
        for key in KEYS
        # One that comes first comes last, too: a dialog may have gone in between.
        for is_first in ((True, False) if key.is_priority else (False,))
    ]

    def __init__(self, ground: Ground, clock: Callable[[], float] = time.monotonic) -> None:
        no_color = os.environ.get("NO_COLOR")
        facts = ground.facts
        view = View(facts.target, ground.command, facts.project, facts.image)
        keys = keymap(facts.keys)
        super().__init__(view, ground.progress, keys, clock, TerminalDriver)
        if no_color is not None:  # Textual takes it away, and runs would not see it
            os.environ["NO_COLOR"] = no_color
        self.last_words: list[str] = []
        self._ground = ground
        self._facts = facts
        self._lender = Lender(self, self._terminal_back)
        self._feed = Feed(ground, self, self._lender.lent)
        self._shown_run: int | None = None  # None: the newest
        self._interrupted_s = -AGAIN_WITHIN_S
        self._lost_reasons: set[str] = set()
        for theme in THEMES:
            self.register_theme(theme)
        self._take_theme(facts.theme)
        self.set_keymap(keys)

    def _take_theme(self, name: str) -> None:
        wanted = theme_for(name)
        self.theme = wanted if wanted in self.available_themes else theme_for("")

    def _tell_of_theme(self) -> None:
        name = self._facts.theme
        if theme_for(name) not in self.available_themes:
            known = ", ".join(names_of(self.available_themes))
            self._tell(Said(f"there is no theme {name}", "warning", f"the themes are {known}"))

    @property
    def is_hidden(self) -> bool:
        return self._lender.is_lent

    @property
    def shown_row(self) -> RunRow | None:
        return self._view.runs.get(self._shown_run) if self._shown_run is not None else None

    def on_mount(self) -> None:
        """Textual calls the board's, too."""
        self._listen_to_signals()
        if isinstance(self._driver, TerminalDriver):
            loop = asyncio.get_running_loop()
            self._driver.on_gone = lambda: _call_on(loop, self._terminal_gone)
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """The screen is there: now to what takes time."""
        gc.enable()
        gc.freeze()
        self._tell_of_theme()
        if self._ground.command:
            self._start_feed()
        else:
            from .dialogs import AskCommand

            found = self._ground.look_around()
            ask = AskCommand(self._ground.facts.root, found, self._take_command)
            self.push_screen(ask, self._command_asked)

    def _take_command(self, text: str) -> str:
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
        facts = self._ground.facts
        seen = f", in {facts.image}" if facts.image else ""
        words = f"watching {facts.root}: `{self._ground.command}` runs on {facts.target}{seen}"
        self.log_pane.note(plain(words), "dim")
        self.run_worker(self._feed.run(), name="feed", group="feed")

    # -- what the feed tells

    def opening(self) -> None:
        self._view.opening()
        self.touch()

    def event(self, event: SessionEvent) -> None:
        was_lost, agents = self._view.link is Link.LOST, self._view.agents
        self._view.handle(event, self._clock())
        if isinstance(event, LogRecord):
            self._on_record(event)
            return
        for said in said_of(event):
            self._tell(said)
        match event:
            case RunStarted(run):
                self._on_started(self._view.runs[run.number])
            case RunFinished(run):
                row = self._view.runs.get(run.number)
                if row is not None:
                    self.log_pane.end_run(run.number, ended_words(row))
            case RunLost(number) if number in self._view.runs:
                self.log_pane.end_run(number, ended_words(self._view.runs[number]))
            case Reconnecting(reason):
                if reason not in self._lost_reasons:
                    self._lost_reasons.add(reason)
                    what = "agent gone" if self._view.is_local else "link lost"
                    self._tell(Said(f"{what}: {reason}", "warning"))
            case Reconfigured():
                self._take_facts()
            case Connected():
                self._take_facts()
                self._lost_reasons.clear()
                if was_lost and self._view.agents > agents:
                    self._tell(Said("another agent answers: the files are checked", "warning"))
                elif was_lost:
                    self._tell(Said("connected again", "success"))
            case _:
                pass
        self.touch()

    def _on_record(self, record: LogRecord) -> None:
        note = note_of(record)
        if note is not None:
            self.log_pane.note(note.text, note.style)
        else:
            stream: StreamName = "stderr" if record.stream is LogStream.STDERR else "stdout"
            self.log_pane.append(record.run, stream, record.data, record.time_ns)

    def _on_started(self, row: RunRow) -> None:
        log = self.log_pane
        if self._shown_run is not None and log.is_following:
            self._shown_run = None
        log.begin_run(row.number, started_words(row))
        if row.start_note:
            log.note(f"{row.start_kind} start: {plain(row.start_note)}", "dim")

    def sample(self, sample: Sample) -> None:
        """Drawn with what gets older."""
        is_first = self._view.host is None
        self._view.sample(sample, self._clock())
        if is_first:
            self.touch()

    def round_trip(self, rtt_s: float) -> None:
        self._view.rtt_s = rtt_s

    def over(self, error: DevloopError | None) -> None:
        self._take_facts()
        live = self._view.live
        self._view.session_over(error, self._clock())
        if live is not None:
            self.log_pane.end_run(live.number, ended_words(live))
        if error is not None:
            self._tell(Said(str(error), "warning", error.hint))
        self.touch()

    def _take_facts(self) -> None:
        """Of a configuration that may be another one than before."""
        before, now = self._facts, self._ground.facts
        view, self._facts = self._view, now
        view.target, view.image, view.command = now.target, now.image, self._ground.command
        if now.theme != before.theme:
            self._take_theme(now.theme)
            self._tell_of_theme()
        if now.keys != before.keys:
            self._keys = keymap(now.keys)
            self.set_keymap(self._keys)

    def _tell(self, said: Said) -> None:
        """In the log, and where the log's end is out of sight, in front of it."""
        log = self.log_pane
        log.note(plain(said.text), said.style)
        if said.hint:
            log.note(f"hint: {plain(said.hint)}", "dim")
        if not log.is_following or not log.display:
            self.notify(plain(said.text), markup=False, timeout=4)
        if self._view.leaving:
            hint = f"\nhint: {said.hint}" if said.hint else ""
            self.last_words.append(said.text + hint)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A key that comes before what has the focus is a letter where somebody types, and a
        dialog's own in front of a dialog."""
        is_elsewhere = isinstance(self.focused, Input) or isinstance(self.screen, ModalScreen)
        return not (is_elsewhere and (action, *parameters) in OPENING)

    # -- runs

    def action_rerun(self) -> None:
        if self._view.link is Link.OVER:
            self._feed.again()
        elif self._feed.loop is not None:
            if self._view.link is Link.LOST:
                self._tell(Said("it runs again once the link is back"))
            self._feed.loop.rerun()
            self._shown_run = None
            self.log_pane.action_follow()

    def action_restart_cold(self) -> None:
        if self._feed.loop is not None:
            self._tell(Said("cold restart: new container, new zygote"))
            self._feed.loop.restart_cold()
            self._shown_run = None
            self.log_pane.action_follow()

    def action_stop(self) -> None:
        if self._feed.loop is None:
            return
        live = self._view.live
        if live is not None and live.asked != "stop" and self._view.link is Link.LOST:
            self._tell(Said(f"run {live.number} is stopped once the link is back"))
        self._view.ask("stop")
        self._feed.loop.stop()
        self.touch()

    def action_kill(self) -> None:
        """The loop kills what it has been asked to stop, and is asked again."""
        self.action_stop()
        self.action_stop()

    def action_pause(self) -> None:
        if self._feed.loop is not None:
            self._feed.loop.pause(not self._view.is_paused)

    def action_interrupt(self) -> None:
        if isinstance(self.focused, PatternBar):  # the pattern is what is given up
            self.focused.action_cancel()
        else:
            self._interrupt()

    def _interrupt(self) -> None:
        before, self._interrupted_s = self._interrupted_s, self._clock()
        if self._view.leaving:
            self._feed.leave(kill=True)
        elif isinstance(self.screen, ModalScreen):
            self.screen.dismiss(None)  # to each of them a no, which who has asked must hear
        elif self.log_pane.has_selection:
            self.log_pane.action_copy()
        elif self._view.live is not None and self._feed.loop is not None:
            is_again = self._interrupted_s - before < AGAIN_WITHIN_S
            self._interrupt_run(self._feed.loop, self._view.live, is_again=is_again)
        elif self._interrupted_s - before < AGAIN_WITHIN_S:
            self._leave()
        else:
            self.notify("Ctrl-C again to leave", timeout=AGAIN_WITHIN_S)

    def _interrupt_run(self, loop: Loop, run: RunRow, *, is_again: bool) -> None:
        if self._view.link is Link.LOST:
            self._tell(Said(f"run {run.number} cannot be reached: x stops it once it can"))
            return
        if is_again and run.asked:
            self._tell(Said(f"run {run.number} goes on: x stops it, X kills it", "warning"))
        else:
            self._tell(Said(f"interrupting run {run.number}"))
        self._view.ask("interrupt")
        loop.interrupt()

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
        self.touch()

    # -- code

    def action_diff(self, other: str) -> None:
        """Of the run that one looks at: what changed for it, or since then until the newest."""
        rows = list(self._view.runs.values())
        at = [row.number for row in rows].index(self._looked_at) if rows else 0
        old, new = (at, len(rows) - 1) if other == "newest" else (at - 1, at)
        if 0 <= old < new:
            self.run_worker(self._show_diff(rows[old], rows[new]), group="diff", exclusive=True)
        else:
            self.notify("there is no other run to compare with", timeout=2)

    @property
    def _looked_at(self) -> int:
        """The number of the run that the list or the log shows. Some run there is."""
        chosen = self._runs.chosen if self._current == "runs" else self._shown_run
        return chosen if chosen in self._view.runs else next(reversed(self._view.runs))

    async def _show_diff(self, old: RunRow, new: RunRow) -> None:
        try:
            lines = await self._feed.diff_of_code(old.tree, new.tree)
        except DevloopError as error:
            self._tell(Said(str(error), "warning", error.hint))
            return
        if lines:
            from .diffs import DiffScreen

            title = f"code · run {old.number} → run {new.number}"
            await self.push_screen(DiffScreen(title, lines))
        else:
            self.notify(f"runs {old.number} and {new.number} ran the same code", timeout=3)

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
            self._lender.start(programs.pager(self._ground.verb("logs", str(number))))

    def on_log_pane_open_file(self, event: LogPane.OpenFile) -> None:
        self._edit(event.path, event.line)

    def on_log_pane_open_url(self, event: LogPane.OpenUrl) -> None:
        self.open_url(event.url)

    def _edit(self, path: str, line: int) -> None:
        found = local_path(Path(self._ground.facts.root), path)
        if found is None:
            self.notify(f"{plain(path)} is no file of this project", markup=False)
        else:
            self._lender.start(programs.editor(os.environ, found, line))

    # -- other programs in the terminal

    def action_shell(self) -> None:
        self._lender.start(programs.verb(self._ground.verb("shell")))

    def action_debug(self) -> None:
        words = debugger_words(self._ground.command)
        if words is None:
            self.notify("only `python …` runs under pdb", markup=False, severity="warning")
        elif self._feed.loop is not None:
            self.run_worker(self._debug(self._feed.loop, words), group=LENT, exclusive=True)

    async def _debug(self, loop: Loop, words: Sequence[str]) -> None:
        """In place of the live run. Saves are held while somebody looks at the code."""
        was_paused = self._view.is_paused
        loop.stop()
        if not was_paused:
            loop.pause(True)
        try:
            command = self._ground.verb("exec", "--tty", "--", *words)
            await self._lender.run(programs.verb(command))
        finally:
            if not was_paused:
                loop.pause(False)

    def _terminal_back(self) -> None:
        self.draw()

    # -- panes

    def action_pane(self, name: str) -> None:
        self._current = name
        self._arrange()
        self._panes[name].focus()

    def action_move(self, by: int) -> None:
        """In whatever has the focus, by a line or a choice."""
        if self._current == "log":
            self.log_pane.action_line(by)
        elif self._current == "runs":
            step = self._runs.action_cursor_down if by > 0 else self._runs.action_cursor_up
            step()
        else:
            self._panes[self._current].scroll_relative(y=by, animate=False)

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
        """Or, one after another, what else is in the way: a selection, a search, a zoom, a pane in
        the log's place."""
        log = self.log_pane
        if not log.is_plain:
            log.action_dismiss()
        elif self._is_zoomed:
            self.action_zoom()
        elif not self._main.display:
            self.action_pane("log")
        else:
            self.close_card()

    def action_help(self) -> None:
        from .dialogs import Help

        self.push_screen(Help(self._keys))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        for key in KEYS:
            if key.name not in ("palette", "next_pane", "previous_pane", "interrupt"):
                words = key.words[0].upper() + key.words[1:]
                keys = f"key {key_words(key, self._keys)}"
                yield SystemCommand(words, keys, self._runner(key.action))
        yield SystemCommand("Change the theme", "colours", self.action_change_theme)

    def _runner(self, action: str) -> Callable[[], None]:
        def run() -> None:
            self.call_later(self.run_action, action, self)

        return run

    # -- leaving

    async def action_leave(self) -> None:
        live = self._view.live
        if self._view.leaving:
            self._feed.leave(kill=True)
        elif live is not None:
            from .dialogs import AskLeave

            await self.push_screen(AskLeave(live.number), self._leave_chosen)
        else:
            self._leave()

    def _leave_chosen(self, choice: LeaveChoice | None) -> None:
        if choice is not None:
            self._leave(keep=choice == "keep")

    async def action_quit(self) -> None:
        await self.action_leave()

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
        live = None if keep else self._view.live
        self._feed.leave(keep=keep)
        awaited = [worker for worker in self.workers if worker.group in ("feed", LENT)]
        await asyncio.gather(*(worker.wait() for worker in awaited), return_exceptions=True)
        if live is not None and live.end is not None:
            is_ours = live.was_stopped
            words = f"run {live.number} was stopped" if is_ours else ended_words(live)
            self.last_words.append(words)
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
        if self._lender.is_lent:
            self._lender.interrupted()
        else:
            self.action_interrupt()

    def _told_to_end(self) -> None:
        self.workers.cancel_group(self, LENT)
        if self._view.leaving:
            self._feed.leave(kill=True)
        else:
            self._leave()

    def _terminal_gone(self) -> None:
        self._told_to_end()


def _call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # it has ended meanwhile
        loop.call_soon_threadsafe(call)
