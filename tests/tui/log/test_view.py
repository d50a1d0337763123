"""Rows over lines, compared with the plain way to count them."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from devloop.tui.log import wrap
from devloop.tui.log.search import Matches, Pattern
from devloop.tui.log.store import BLOCK_LINES, Kind, Store
from devloop.tui.log.view import DROPPED, Place, View

COUNT = 2 * BLOCK_LINES + 300
TEXTS = ["", "short", "x" * 25, "日本" * 9, "\x1b[31m" + "y" * 47 + "\x1b[0m", "match " * 5]


def made(most_lines: int = 1_000_000) -> Store:
    rng = random.Random(3)
    store = Store(most_lines)
    for _ in range(COUNT):
        store.append(rng.choice(TEXTS), Kind.STDOUT, 1, 0)
    return store


def plain_way(
    store: Store, start: int, pattern: Pattern | None, context: int, width: int | None
) -> list[Place]:
    lines = range(max(start, store.first), store.end)
    if pattern is not None:
        hits = [at for at in range(store.first, store.end) if pattern.matches(text(store, at))]
        near = {hit + by for hit in hits for by in range(-context, context + 1)}
        lines = [at for at in lines if at in near]  # type: ignore[assignment]
    places = []
    for at in lines:
        rows = 1 if width is None else len(wrap.starts(text(store, at), width))
        places += [Place(at, part) for part in range(rows)]
    return places


def text(store: Store, at: int) -> str:
    return store.line(at).text.removeprefix("\x1b[31m").removesuffix("\x1b[0m")


@pytest.mark.parametrize(
    ("start", "source", "context", "width"),
    [
        *itertools.product([0, 2500], [None], [0], [None, 20]),
        *itertools.product([0, 2500], ["match", "!match", "nothing"], [0, 2], [None, 20]),
    ],
)
def test_rows_are_those_of_the_plain_way(
    start: int, source: str | None, context: int, width: int | None
) -> None:
    store = made()
    view = View(store)
    pattern = Pattern.of(source) if source else None
    matches = Matches(pattern, store) if pattern else None
    view.show_from(start)
    view.filter_by(matches, context)
    view.lay_out(width or 1000, wraps=width is not None)
    while matches and (block := matches.step()) is not None:
        view.row_count  # noqa: B018 - what was counted before must not stay
        view.filter_changed(block)
    wanted = plain_way(store, start, pattern, context, width)
    assert view.row_count == len(wanted)
    assert [view.locate(row) for row in range(view.row_count)] == wanted
    assert view.locate(len(wanted)) is None
    for row, place in enumerate(wanted):
        if place.part == 0:
            assert view.row_of(place.line) == row
    shown = [place.line for place in wanted if place.part == 0]
    assert [*view.lines(0, store.end)] == shown
    assert view.last == (shown[-1] if shown else None)


def test_a_row_on_top_says_that_older_lines_are_gone() -> None:
    store = made(most_lines=BLOCK_LINES)
    view = View(store)
    assert view.locate(0) == Place(DROPPED, 0)
    assert view.locate(1) == Place(store.first, 0)
    assert view.row_of(store.first) == 1
    assert view.row_of(0) == 0
    view.show_from(store.first + 1)
    assert view.locate(0) == Place(store.first + 1, 0)


def test_neighbours_are_shown_lines_and_end_at_the_ends() -> None:
    store = made()
    view = View(store)
    view.lay_out(20, wraps=True)
    assert view.neighbour(5, -2) == 3
    assert view.neighbour(1, -9) == 0
    assert view.neighbour(store.end - 2, 9) == store.end - 1


def test_rewritten_lines_are_counted_anew() -> None:
    store = made()
    view = View(store)
    view.lay_out(20, wraps=True)
    before = view.row_count
    store.append("z" * 100, Kind.STDOUT, 1, 0)
    view.changed_from(store.end - 1)
    assert view.row_count == before + 5
    store.truncate(store.end - 1)
    view.changed_from(store.end)
    assert view.row_count == before


@pytest.mark.parametrize(
    ("line", "width", "starts"),
    [
        ("", 5, [0]),
        ("abcde", 5, [0]),
        ("abcdef", 5, [0, 5]),
        ("日本語x", 5, [0, 4]),
        ("日", 1, [0]),
    ],
)
def test_a_wide_character_is_never_broken(line: str, width: int, starts: list[int]) -> None:
    assert [*wrap.starts(line, width)] == starts


def test_a_cell_belongs_to_its_character() -> None:
    assert [wrap.column_at("a日e\u0301b", cell) for cell in range(-1, 7)] == [
        0,
        0,
        1,
        1,
        2,
        4,
        5,
        5,
    ]


def test_notes_wrap_between_words_and_separators_never_do() -> None:
    store = Store()
    view = View(store)
    store.append("x" * 50, Kind.STDOUT, 1, 0)
    store.append("\x1b[36manother one of this project is open\x1b[0m", Kind.NOTE, 1, 0)
    store.append("run 14 · " + "x" * 50, Kind.SEPARATOR, 1, 0)
    view.lay_out(20, wraps=False)
    assert [view.rows_of(line) for line in range(3)] == [1, 2, 1]
    assert list(view.starts(1)) == [0, len("another one of this ")]
    assert view.row_count == 4
    assert view.locate(2) == Place(1, 1)
    view.lay_out(20, wraps=True)
    assert [view.rows_of(line) for line in range(3)] == [3, 2, 1]


@given(st.text(max_size=60), st.integers(2, 20))
def test_rows_that_end_between_words_hold_all_of_the_text(text: str, width: int) -> None:
    starts = [*wrap.word_starts(text, width), cell_len(text)]
    assert starts[0] == 0
    assert all(0 <= end - start <= width for start, end in itertools.pairwise(starts))
