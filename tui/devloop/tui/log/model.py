"""The log as values: lines of all runs, what is shown, what is looked for. Draws nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from .assembler import STDERR, STDOUT, Assembler
from .search import ERRORS, Matches, Pattern
from .sgr import plain
from .store import MOST_BYTES, MOST_LINES, Kind, Store
from .view import View

if TYPE_CHECKING:
    from .assembler import Edit

__all__ = ["NOTE_STYLES", "Direction", "LogModel", "NoteStyle", "RunStart", "StreamName"]

StreamName: TypeAlias = Literal["stdout", "stderr"]
NoteStyle: TypeAlias = Literal["info", "success", "warning", "error", "dim"]
Direction: TypeAlias = Literal["older", "newer"]

NOTE_STYLES: dict[str, str] = {
    "info": "36",
    "success": "32",
    "warning": "33",
    "error": "1;31",
    "dim": "2",
}
_STREAMS = {"stdout": STDOUT, "stderr": STDERR}
_MOST_WAITING = 4096  # rows; a flood is stored as it comes, not when it is drawn


class RunStart(NamedTuple):
    number: int
    title: str
    line: int


class LogModel:
    """Feed it; `settle` before looking at it. Line numbers are the store's."""

    def __init__(self, most_lines: int = MOST_LINES, most_bytes: int = MOST_BYTES) -> None:
        self.store = Store(most_lines, most_bytes)
        self.view = View(self.store)
        self.runs: list[RunStart] = []
        self.marks: set[int] = set()
        self.find: Matches | None = None
        self.filter: Matches | None = None
        self.context = 0
        self._errors = Matches(ERRORS, self.store)
        self._errors_wanted = False
        self._assembler = Assembler()
        self._run = 0

    def begin_run(self, number: int, title: str) -> None:
        """A separator; what comes from now on is this run's."""
        self._finish()
        self._run = number
        self.runs.append(RunStart(number, title, self.store.end))
        self._say(title, Kind.SEPARATOR, time.time_ns())

    def end_run(self, number: int, title: str) -> None:
        self._finish()
        self._say(title, Kind.SEPARATOR, time.time_ns(), number)

    def note(self, text: str, style: str) -> None:
        """A line of ours, in one of `NOTE_STYLES`; another name means "info"."""
        self._apply(self._assembler.settle())
        opening = f"\x1b[{NOTE_STYLES.get(style, NOTE_STYLES['info'])}m"
        for line in text.splitlines() or [""]:
            self._say(opening + harmless(line), Kind.NOTE, time.time_ns())

    def append(self, run: int, stream: StreamName, data: bytes, time_ns: int) -> None:
        if run != self._run:
            self._finish()
            self._run = run
        self._assembler.feed(_STREAMS[stream], data, time_ns)
        if self._assembler.waiting > _MOST_WAITING:
            self.settle()

    def settle(self) -> None:
        """The store is what was appended."""
        self._apply(self._assembler.take())

    def clear(self) -> None:
        """Shows what comes from now on; on an empty view, everything again."""
        self.settle()
        everything = self.view.start == self.store.end
        self.view.show_from(0 if everything else self.store.end)

    @property
    def is_cleared(self) -> bool:
        return self.view.start > self.store.first

    def run_at(self, line: int) -> RunStart | None:
        """The run that was the newest when the line was written."""
        for run in reversed(self.runs):
            if run.line <= line:
                return run
        return None

    def run_start(self, number: int) -> int | None:
        """Where a run begins; the oldest line that is left of it; None if nothing is."""
        for at, run in enumerate(self.runs):
            if run.number == number:
                end = self.runs[at + 1].line if at + 1 < len(self.runs) else self.store.end
                return max(run.line, self.store.first) if end > self.store.first else None
        return None

    def look_for(self, source: str | None) -> None:
        """What `matching` and `matches_in` are about; nothing for an empty pattern."""
        self.find = Matches(Pattern.of(source), self.store) if source else None

    def keep_only(self, source: str | None, context: int = 0) -> None:
        """Filters the view."""
        self.filter = Matches(Pattern.of(source), self.store) if source else None
        self.set_context(context)

    def set_context(self, context: int) -> None:
        self.context = context
        self.view.filter_by(self.filter, context)

    @property
    def errors(self) -> Matches:
        self._errors_wanted = True
        return self._errors

    def step(self) -> bool:
        """Looks at one more block for whatever is looked for; whether there was one."""
        if self.filter is not None:
            block = self.filter.step()
            if block is not None:
                self.view.filter_changed(block)
                return True
        if self.find is not None and self.find.step() is not None:
            return True
        return self._errors_wanted and self._errors.step() is not None

    def nearest(self, matches: Matches, direction: Direction, line: int) -> tuple[int | None, bool]:
        """The next match that is shown, around the end if there is none.

        And whether that is certain: it is not while lines between have not been looked at.
        """
        found = self._shown(matches, direction, line)
        if found is not None:
            between = (found, line) if direction == "older" else (line, found)
            if matches.is_known_between(*between):
                return found, True
        if not matches.is_complete:
            return None, False
        if found is None:
            around = self.store.end if direction == "older" else self.view.start - 1
            found = self._shown(matches, direction, around)
        return found, True

    def _shown(self, matches: Matches, direction: Direction, line: int) -> int | None:
        found: int | None = line
        while found is not None:
            found = matches.before(found) if direction == "older" else matches.after(found)
            if found is None or self.view.is_shown(found):
                return found
            if direction == "older" and found < self.view.start:
                return None
        return None

    def _finish(self) -> None:
        self._apply(self._assembler.finish())

    def _say(self, text: str, kind: int, time_ns: int, run: int | None = None) -> None:
        start = self.store.end
        text = text if kind == Kind.NOTE else harmless(text)
        self.store.append(text, kind, self._run if run is None else run, time_ns)
        self._changed_from(start)

    def _apply(self, edit: Edit) -> None:
        if not edit.removed and not edit.rows:
            return
        start = self.store.end - edit.removed
        if edit.removed:
            self.store.truncate(start)
        append, run = self.store.append, self._run
        for row in edit.rows:
            append(row.text, row.stream, run, row.time_ns)
        self._changed_from(start)

    def _changed_from(self, line: int) -> None:
        self.view.changed_from(line)
        for matches in (self.find, self.filter, self._errors):
            if matches is not None:
                matches.forget_from(line)
                matches.forget_dropped()
        if self.filter is not None:  # a new line is shown at once if it matches
            newest = self.filter.step()
            if newest is not None:
                self.view.filter_changed(newest)
        if self.marks and min(self.marks) < self.store.first:
            self.marks = {mark for mark in self.marks if mark >= self.store.first}


def harmless(text: str) -> str:
    """Text that we did not write, on one line and without controls."""
    return "".join(character if character.isprintable() else "\ufffd" for character in plain(text))
