"""The bytes of a run to rows, as a terminal would show them.

Both streams write to one screen that has no width and grows downwards. The newest `LIVE_ROWS`
rows may be rewritten (`\\r`, cursor up, erase), what is above them is settled. Of all escape
sequences only SGR and OSC 8 links reach a row; other controls are acted on, shown as a picture, or
dropped: nothing that a program printed is obeyed by the user's own terminal.

Unlike a terminal: a newline returns the carriage (pipes have no driver that would), one stream
never writes into the other's row, and clearing the screen starts a new page below.
"""

from __future__ import annotations

import codecs
import re
from typing import Final, NamedTuple

from . import pen as pens
from .pen import Pen
from .rows import LONGEST_ROW, Row, pen_after
from .sgr import spans

__all__ = ["LIVE_ROWS", "STDERR", "STDOUT", "Assembler", "Edit"]

STDOUT: Final = 0
STDERR: Final = 1
LIVE_ROWS = 64  # how far up a program may go back: more than a progress display has rows
LONGEST_ESCAPE = 4096

# C0 without tab and newline, DEL, C1, and bidirectional overrides, which reorder what is around.
_CONTROLS = "\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069"
_SPECIAL = re.compile(rf"[{_CONTROLS}]|\x1b(?!\[[0-9;:]*m)")
_STRING = r"[^\x00-\x1f\x7f-\x9f]*"
_TOKEN = re.compile(
    rf"(?P<plain>(?:[^{_CONTROLS}\x1b]+|\x1b\[[0-9;:]*m)+)"
    rf"|(?P<control>[{_CONTROLS}])"
    r"|\x1b\[(?P<parameters>[0-?]*)[ -/]*(?P<final>[@-~])"
    rf"|\x1b\]8;[^;\x00-\x1f\x7f-\x9f]*;(?P<link>{_STRING})(?:\x07|\x1b\\)"
    rf"|\x1b[\]PX^_]{_STRING}(?:\x07|\x1b\\)"
    r"|\x1b[ -/]+[0-~]"
    r"|\x1b(?P<escape>[0-Z\\^-~])"
    r"|\x1b[\[\]PX^_]?"
)
_UNFINISHED = re.compile(rf"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_]{_STRING}\x1b?|[ -/]*)\Z")
_NEWLINES = frozenset("\x0b\x0c")
_DROPPED = frozenset("\x00\x07\x0e\x0f\x7f")
_LINKS = ("http://", "https://", "file://")


class Edit(NamedTuple):
    """What has changed at the end of the rows: `removed` of them go, `rows` come in their place."""

    removed: int
    rows: list[Row]


class Assembler:
    """One run's screen. `feed` it bytes, `take` what has changed, `settle` before something else is
    said, `finish` it at its end."""

    def __init__(self) -> None:
        self._rows: list[Row] = [Row("", STDOUT, 0)]
        self._row = 0
        self._column: int | None = None  # None: at the end of a row that grows
        self._pen = pens.DEFAULT
        self._saved: tuple[int, int, Pen] = (0, 0, pens.DEFAULT)
        self._page = 0  # the row that "home" means
        self._changed = 0  # no row above it has changed since the last `take`
        self._taken = 0  # how many of the rows were given out
        self._stream = STDOUT
        self._time_ns = 0
        self._decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(2)]
        self._unfinished = ["", ""]

    @property
    def waiting(self) -> int:
        """How many rows a `take` would give out."""
        return len(self._rows) - self._changed

    def feed(self, stream: int, data: bytes, time_ns: int) -> None:
        text = self._decoders[stream].decode(data)
        if self._unfinished[stream]:
            text, self._unfinished[stream] = self._unfinished[stream] + text, ""
        if not text:
            return
        self._time_ns = time_ns
        if stream != self._stream:
            self._switch(stream)
        if "\r\n" in text:
            text = text.replace("\r\n", "\n")
        if _SPECIAL.search(text) is None:
            self._plain(text)
        else:
            self._tokens(text)

    def take(self) -> Edit:
        """The rows that have changed since the last time; the oldest are settled with it."""
        end = self._row
        for at in range(len(self._rows) - 1, self._row - 1, -1):
            if not self._rows[at].is_empty:
                end = at + 1
                break
        start = min(self._changed, end, self._taken)
        edit = Edit(self._taken - start, self._rows[start:end])
        self._taken = self._changed = end
        self._settle(min(len(self._rows) - LIVE_ROWS, self._row, end))
        return edit

    def settle(self) -> Edit:
        """The last rows, all settled: the program goes on where it was, but on a row of its own."""
        edit = self.take()
        self._rows = [Row("", self._stream, self._time_ns)]
        self._row = self._page = self._changed = self._taken = 0
        self._column, self._saved = None, (0, 0, pens.DEFAULT)
        return edit

    def finish(self) -> Edit:
        """As `settle`, and nothing is left of the program: it has ended."""
        for stream, decoder in enumerate(self._decoders):
            rest = decoder.decode(b"", final=True)
            decoder.reset()
            self._unfinished[stream] = ""
            if rest:
                if stream != self._stream:
                    self._switch(stream)
                self._plain(rest)
        edit = self.settle()
        self._pen = pens.DEFAULT
        return edit

    def _settle(self, count: int) -> None:
        if count > 0:
            del self._rows[:count]
            self._row -= count
            self._taken -= count
            self._changed = max(0, self._changed - count)
            self._page = max(0, self._page - count)
            self._saved = (max(0, self._saved[0] - count), *self._saved[1:])

    def _switch(self, stream: int) -> None:
        """The other stream writes: on a row of its own, unless this one is blank."""
        self._stream = stream
        if not self._rows[self._row].is_blank:
            self._row = len(self._rows) - 1
            self._column = None if self._rows[self._row].grows else 0
            if not self._rows[self._row].is_blank:
                self._newline()
        row = self._rows[self._row]
        if row.is_blank:
            row.stream, row.time_ns = stream, self._time_ns

    def _plain(self, text: str) -> None:
        """Text, newlines, tabs and SGR."""
        if "\n" not in text:
            self._write(text)
            return
        first, *whole, last = text.split("\n")
        if first:
            self._write(first)
        for line in whole:
            self._newline()
            if line:
                self._write(line)
        self._newline()
        if last:
            self._write(last)

    def _write(self, text: str) -> None:
        row = self._rows[self._row]
        self._changed = min(self._changed, self._row)
        if self._column is not None or not row.grows:
            self._overwrite(text)
            return
        if "\t" in text:
            if not (row.is_empty and text.isascii() and "\x1b" not in text):
                self._overwrite(text)
                return
            text = text.expandtabs()
        if row.is_empty:
            row.stream, row.time_ns = self._stream, self._time_ns
            if self._pen is not pens.DEFAULT:
                row.append(pens.opening(self._pen))
        row.append(text)
        if "\x1b" in text:
            self._pen = pen_after(self._pen, text)

    def _overwrite(self, text: str) -> None:
        row, column = self._at_column()
        if row.is_empty:
            row.stream, row.time_ns = self._stream, self._time_ns
        cells = row.cells()
        for piece, pen in spans(pens.opening(self._pen) + text):
            column = cells.write(column, piece, pen)
        self._column = column
        self._pen = pen_after(self._pen, text)

    def _at_column(self) -> tuple[Row, int]:
        """The row under the cursor, to be changed, and the cursor's column in it."""
        row = self._rows[self._row]
        self._changed = min(self._changed, self._row)
        if self._column is None:
            self._column = len(row.cells())
        return row, self._column

    def _newline(self) -> None:
        self._row += 1
        if self._row < len(self._rows):
            self._column = 0
        else:
            self._rows.append(Row("", self._stream, self._time_ns))
            self._column = None

    def _tokens(self, text: str) -> None:
        unfinished = _UNFINISHED.search(text)
        if unfinished is not None and len(unfinished[0]) <= LONGEST_ESCAPE:
            self._unfinished[self._stream] = unfinished[0]
            text = text[: unfinished.start()]
        for token in _TOKEN.finditer(text):
            match token.lastgroup:
                case "plain":
                    self._plain(token[0])
                case "control":
                    self._control(token[0])
                case "final":
                    self._sequence(token["final"], token["parameters"])
                case "link":
                    self._link(token["link"])
                case "escape":
                    self._escape(token["escape"])

    def _control(self, control: str) -> None:
        if control == "\r":
            self._at_column()
            self._column = 0
        elif control == "\b":
            _, column = self._at_column()
            self._column = max(0, column - 1)
        elif control in _NEWLINES:
            self._newline()
        elif control < " " and control not in _DROPPED:
            self._write(chr(0x2400 + ord(control)))
        elif "\x80" <= control <= "\x9f":
            self._write("\ufffd")

    def _link(self, link: str) -> None:
        self._at_column()
        self._pen = pens.with_link(self._pen, link if link.startswith(_LINKS) else "")

    def _escape(self, final: str) -> None:
        match final:
            case "7":
                self._saved = (self._row, self._at_column()[1], self._pen)
            case "8":
                self._at_column()
                self._row, self._column, self._pen = self._saved
            case "D" | "E":
                self._newline()
            case "M":
                self._up(1)
            case "c":
                self._at_column()
                self._pen = pens.DEFAULT

    def _sequence(self, final: str, parameters: str) -> None:
        """A CSI sequence; those with a private marker say nothing about rows."""
        if parameters and parameters[0] in "<=>?":
            return
        row, column = self._at_column()
        numbers = [min(int(part), LONGEST_ROW) if part else 0 for part in _split(parameters)]
        count = max(1, numbers[0])
        match final:
            case "K":
                self._erase_line(row, column, numbers[0])
            case "J":
                self._erase_display(row, column, numbers[0])
            case "P":
                row.cells().delete(column, count)
            case "@":
                row.cells().insert(column, count)
            case "X":
                self._blank(row, column, column + count)
            case "H" | "f":
                self._home(numbers)
            case "s" | "u":
                self._escape("7" if final == "s" else "8")
            case _:
                self._move(final, column, count)

    def _move(self, final: str, column: int, count: int) -> None:
        match final:
            case "A" | "F":
                self._up(count)
            case "B" | "E" | "e":
                self._row = min(self._row + count, len(self._rows) - 1)
            case "C" | "a":
                self._column = min(column + count, LONGEST_ROW - 1)
            case "D":
                self._column = max(0, column - count)
            case "G" | "`":
                self._column = count - 1
        if final in "EF":
            self._column = 0

    def _up(self, count: int) -> None:
        self._column = self._at_column()[1]
        self._row = max(0, self._row - count)

    def _home(self, numbers: list[int]) -> None:
        """To a place on the page; rows that were not reached yet are not made."""
        line, column = (*numbers, 0)[:2]
        self._row = min(self._page + max(1, line) - 1, len(self._rows) - 1)
        self._column = max(1, column) - 1

    def _blank(self, row: Row, start: int, end: int) -> None:
        row.cells().erase(start, end)

    def _erase_line(self, row: Row, column: int, mode: int) -> None:
        if mode == 0:
            row.cells().erase(column)
        elif mode == 1:
            self._blank(row, 0, column + 1)
        elif mode == 2:
            row.cells().erase(0)

    def _erase_display(self, row: Row, column: int, mode: int) -> None:
        if mode == 0:
            row.cells().erase(column)
            for below in self._rows[self._row + 1 :]:
                below.cells().erase(0)
        elif mode == 1:
            self._blank(row, 0, column + 1)
            for above in self._rows[self._page : self._row]:
                above.cells().erase(0)
            self._changed = min(self._changed, self._page)
        elif mode == 2:
            self._new_page()

    def _new_page(self) -> None:
        """What was on the screen stays in the scrollback."""
        self._row = len(self._rows) - 1
        self._column = None if self._rows[self._row].grows else 0
        if not self._rows[self._row].is_empty:
            self._newline()
        self._page = self._row


def _split(parameters: str) -> list[str]:
    """At least one; what is no number counts as left out."""
    return [part[:6] if part.isdecimal() else "" for part in parameters.split(";")]
