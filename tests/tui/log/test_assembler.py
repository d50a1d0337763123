"""Bytes to rows, with pyte as the oracle of what a terminal would show."""

from __future__ import annotations

import io
import unicodedata

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress

from devloop.tui.log.assembler import LIVE_ROWS, STDERR, STDOUT, Assembler
from devloop.tui.log.pen import BOLD, ITALIC, REVERSE, RGB, STRIKE, UNDERLINE, Pen
from devloop.tui.log.rows import LONGEST_ROW
from devloop.tui.log.sgr import plain, spans

COLUMNS, LINES = 400, 200


class Shown:
    """What a pane would hold: rows are taken back and appended, as the store does it."""

    def __init__(self) -> None:
        self.assembler = Assembler()
        self.rows: list[str] = []
        self.streams: list[int] = []

    def take(self, *, last: bool = False) -> None:
        edit = self.assembler.finish() if last else self.assembler.take()
        assert edit.removed <= min(len(self.rows), LIVE_ROWS)
        if edit.removed:
            del self.rows[-edit.removed :], self.streams[-edit.removed :]
        self.rows += [row.text for row in edit.rows]
        self.streams += [row.stream for row in edit.rows]

    def feed(self, data: bytes, stream: int = STDOUT) -> Shown:
        self.assembler.feed(stream, data, 1)
        return self

    @property
    def lines(self) -> list[str]:
        self.take()
        return [plain(row) for row in self.rows]


def shown(*parts: bytes) -> list[str]:
    screen = Shown()
    for part in parts:
        screen.feed(part)
    return screen.lines


def oracle(data: bytes) -> pyte.Screen:
    screen = pyte.Screen(COLUMNS, LINES)
    screen.set_mode(pyte.modes.LNM)
    pyte.ByteStream(screen).feed(data)
    return screen


def rows_of(screen: pyte.Screen) -> list[str]:
    rows = [unicodedata.normalize("NFC", row.rstrip()) for row in screen.display]
    while rows and not rows[-1]:
        rows.pop()
    return rows


def trimmed(lines: list[str]) -> list[str]:
    rows = [unicodedata.normalize("NFC", line.rstrip()) for line in lines]
    while rows and not rows[-1]:
        rows.pop()
    return rows


NARROW = ["a", "b", " ", "z", "0", "é", "e\u0301", "|"]
WIDE = [*NARROW, "日", "本", "🚀"]

NUMBER = st.sampled_from(["", "0", "1", "2", "3", "9"])
PLAIN_CODES = [0, 1, 3, 4, 7, 9, 22, 23, 24, 27, 29, 31, 32, 97, 39, 41, 103, 49]
LONG_CODES = ["38;5;208", "48;5;17", "38;2;1;2;3", "1;31", "0;1", "39;49"]
COLOUR = st.sampled_from([*map(str, PLAIN_CODES), *LONG_CODES])
COLOURS = st.builds("\x1b[{}m".format, COLOUR)
FORWARD = st.sampled_from(["\n", "\r\n", "\t", "\x1b[J", "\x1b[K", "\x1b[?25l", "\x1b(B", "\x07"])
BACK = st.one_of(
    st.sampled_from(["\r", "\b"]),
    st.builds("\x1b[{}{}".format, NUMBER, st.sampled_from("ACDGPX")),
    st.builds("\x1b[{}K".format, st.sampled_from(["", "0", "1", "2"])),
)


def words(characters: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(characters), min_size=1, max_size=6).map("".join)


# pyte keeps a wide character of which half was overwritten; terminals blank the other half.
STREAMS = st.one_of(
    st.lists(st.one_of(words(WIDE), COLOURS, FORWARD), max_size=30),
    st.lists(st.one_of(words(NARROW), COLOURS, FORWARD, BACK), max_size=30),
).map(lambda pieces: "".join(pieces).encode())


@st.composite
def split_streams(draw: st.DrawFn) -> list[bytes]:
    data = draw(STREAMS)
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(split_streams(), st.booleans())
def test_any_stream_split_anywhere_looks_as_in_a_terminal(parts: list[bytes], often: bool) -> None:
    screen = Shown()
    for part in parts:
        screen.feed(part)
        if often:
            screen.take()
    assert trimmed(screen.lines) == rows_of(oracle(b"".join(parts)))


@given(split_streams())
def test_every_character_has_the_pen_that_a_terminal_gives_it(parts: list[bytes]) -> None:
    screen = Shown()
    for part in parts:
        screen.feed(part)
    screen.take()
    real = oracle(b"".join(parts))
    for y, row in enumerate(screen.rows):
        wanted = [
            (cell.data, pen_of(cell))
            for x in range(COLUMNS)
            if (cell := real.buffer[y][x]).data.strip()
        ]
        assert cells(row) == [(unicodedata.normalize("NFC", text), pen) for text, pen in wanted]


def cells(row: str) -> list[tuple[str, Pen]]:
    """Visible characters, with what combines with them."""
    found: list[tuple[str, Pen]] = []
    for text, pen in spans(row):
        for character in text:
            if unicodedata.combining(character) and found:
                before, own = found[-1]
                found[-1] = (unicodedata.normalize("NFC", before + character), own)
            else:
                found.append((character, pen))
    return [(text, pen) for text, pen in found if text.strip()]


NAMES = ("black", "red", "green", "brown", "blue", "magenta", "cyan", "white")


def pen_of(cell: pyte.screens.Char) -> Pen:
    bits = {BOLD: cell.bold, ITALIC: cell.italics, UNDERLINE: cell.underscore}
    bits |= {STRIKE: cell.strikethrough, REVERSE: cell.reverse}
    attributes = sum(bit for bit, is_on in bits.items() if is_on)
    return Pen(colour_of(cell.fg), colour_of(cell.bg), attributes)


def colour_of(name: str) -> int | None:
    if name == "default":
        return None
    for first, bare in ((0, name), (8, name.removeprefix("bright"))):
        if bare in NAMES and (first == 0 or bare != name):
            return NAMES.index(bare) + first
    value = int(name, 16)
    palette = [int(each, 16) for each in pyte.graphics.FG_BG_256]
    return palette.index(value, 16) if value in palette[16:] else RGB | value


@given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=40)), max_size=12))
def test_whatever_a_program_prints_no_control_but_sgr_and_links_is_in_a_row(
    parts: list[tuple[int, bytes]],
) -> None:
    screen = Shown()
    for stream, data in parts:
        screen.feed(data, stream)
        screen.take()
    screen.take(last=True)
    for row in screen.rows:
        assert not [c for c in plain(row) if unicodedata.category(c) == "Cc"]


def test_a_progress_bar_is_one_row() -> None:
    bars = [f"\r{at:3d}%|{'█' * (at // 10):<10}| {at}/100".encode() for at in range(0, 101, 10)]
    assert shown(*bars, b"\ndone\n") == ["100%|██████████| 100/100", "done"]


def test_nested_bars_are_rewritten_where_they_are() -> None:
    screen = Shown().feed(b"\router 0\n")
    for at in range(3):
        screen.feed(f"\rinner {at}\x1b[A".encode()).take()
        screen.feed(f"\router {at}\n".encode()).take()
    assert screen.lines == ["outer 2", "inner 2"]


def test_rich_rewrites_its_rows_and_leaves_what_was_above() -> None:
    frame = b"\r\x1b[2K\x1b[1A\x1b[2K\x1b[1A\x1b[2K"
    screen = Shown().feed(b"before\na 0\nb 0\nc 0")
    for at in range(1, 4):
        screen.feed(frame + f"a {at}\nb {at}\nc {at}".encode()).take()
    assert screen.feed(b"\nafter\n").lines == ["before", "a 3", "b 3", "c 3", "after"]


def test_real_rich_progress_looks_as_in_a_terminal_at_every_refresh() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system="truecolor")
    screen, fed = Shown(), 0
    with Progress(console=console, auto_refresh=False) as progress:
        for at in range(3):
            progress.add_task(f"layer {at}", total=10)
        for step in range(10):
            for task in progress.task_ids:
                progress.advance(task)
            if step == 5:
                progress.console.print("[bold]half of it")
                progress.remove_task(progress.task_ids[0])
            progress.refresh()
            data = out.getvalue().encode()
            screen.feed(data[fed:])
            fed = len(data)
            assert trimmed(screen.lines) == rows_of(oracle(data))
    assert len(screen.lines) == 3


def test_rows_further_up_than_the_bound_are_settled() -> None:
    screen = Shown().feed(b"".join(b"%d\n" % at for at in range(LIVE_ROWS + 10)))
    screen.take()
    screen.feed(b"\x1b[500A\rX")
    assert screen.lines[:11] == [*(str(at) for at in range(11))]
    assert "X" in screen.lines[11]


def test_each_stream_writes_on_rows_of_its_own() -> None:
    screen = Shown().feed(b"\r50%|##  |", STDERR).feed(b"hello\n").feed(b"\r60%|### |", STDERR)
    assert screen.lines == ["50%|##  |", "hello", "60%|### |"]
    assert screen.streams == [STDERR, STDOUT, STDERR]


def test_a_line_that_was_cleared_is_free_for_the_other_stream() -> None:
    screen = Shown().feed(b"\r50%", STDERR).feed(b"\r   \r", STDERR).feed(b"hello\n")
    assert screen.feed(b"\r60%", STDERR).lines == ["hello", "60%"]
    assert screen.streams == [STDOUT, STDERR]


def test_a_character_in_two_pieces_survives_the_other_stream_between_them() -> None:
    screen = Shown().feed("é".encode()[:1]).feed(b"err\n", STDERR).feed("é".encode()[1:])
    assert screen.lines == ["err", "é"]


def test_invalid_utf8_is_replaced_and_controls_are_shown_or_dropped() -> None:
    assert shown(b"a\xffb\x1bc\x01d\x00\x07e\xc2\x9b31mf\n") == ["a\ufffdb␁de\ufffd31mf"]


def test_overrides_of_the_text_direction_are_dropped() -> None:
    assert shown("a\u202eb\u2066c\n".encode()) == ["abc"]


@pytest.mark.parametrize(
    "sequence",
    ["\x1b]0;title\x07", "\x1b]52;c;ZXZpbA==\x1b\\", "\x1bPq#0\x1b\\", "\x1b[>4;2m", "\x1b[6n"],
)
def test_what_would_make_the_users_terminal_act_is_dropped(sequence: str) -> None:
    for at in range(len(sequence)):
        parts = ("a" + sequence[:at]).encode(), (sequence[at:] + "b\n").encode()
        assert shown(*parts) == ["ab"]


def test_a_sequence_that_never_ends_hides_no_more_than_its_bound() -> None:
    lines = shown(b"\x1b]0;" + b"x" * 5000 + b"\nnext\n")
    assert lines[-1] == "next"
    assert shown(b"\x1b]0;" + b"x" * 5000)[0].endswith("x" * 4000)


def test_a_line_without_an_end_is_bounded() -> None:
    screen = Shown()
    for _ in range(64):
        screen.feed(b"\x1b[31mx" * 1024)
    (row,) = (screen.take(), screen.rows)[1]
    assert len(row) < LONGEST_ROW + 100
    assert "cut at" in plain(row)
    assert screen.feed(b"\nnext\n").lines[1] == "next"


def test_the_cursor_cannot_make_a_row_wider_than_the_bound() -> None:
    (line,) = shown(b"\x1b[999999999Cx\x1b[99999@y")
    assert len(line) <= LONGEST_ROW


def test_a_colour_goes_on_in_the_next_row() -> None:
    screen = Shown().feed(b"\x1b[1;31mone\ntwo\x1b[0m\nthree\n")
    screen.take()
    red = Pen(1, None, BOLD)
    assert [spans(row) for row in screen.rows] == [
        [("one", red)],
        [("two", red)],
        [("three", Pen())],
    ]


def test_a_link_is_kept_and_one_that_is_no_address_is_not() -> None:
    screen = Shown().feed(
        b"\x1b]8;;https://a.example/x\x07here\x1b]8;;\x07 \x1b]8;;javascript:1\x07no"
    )
    screen.take()
    assert spans(screen.rows[0]) == [("here", Pen(link="https://a.example/x")), (" no", Pen())]


def test_a_cleared_screen_stays_in_the_scrollback() -> None:
    assert shown(b"one\ntwo\n\x1b[2J\x1b[Hthree\n\x1b[Hfour\n") == ["one", "two", "foure"]


def test_a_reset_after_the_last_newline_is_no_line() -> None:
    screen = Shown().feed(b"\x1b[31merror\n\x1b[0m")
    screen.take(last=True)
    assert [plain(row) for row in screen.rows] == ["error"]


def test_half_a_wide_character_that_stays_is_blank() -> None:
    assert shown("日本\ra\n日本\x1b[3Da\n".encode()) == ["a 本", " a本"]


def test_tabs_stop_every_eight_columns_also_after_colours_and_wide_characters() -> None:
    data = "a\tb\n\x1b[31mab\tc\x1b[0m\td\n日\te\n".encode()
    assert shown(data) == rows_of(oracle(data)) == ["a       b", "ab      c       d", "日      e"]
