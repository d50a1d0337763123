"""Lines in, lines out, bounded: numbers stay, the oldest go, the end may be rewritten."""

from __future__ import annotations

import random

import pytest

from devloop.tui.log.store import BLOCK_LINES, Kind, Store


def filled(count: int, **bounds: int) -> Store:
    store = Store(**bounds)
    for at in range(count):
        store.append(f"line {at}", Kind.STDOUT, at // 100, at)
    return store


def test_a_line_comes_back_as_it_was_given() -> None:
    store = Store()
    store.append("\x1b[31m日本\x1b[0m é", Kind.STDERR, 14, 123)
    assert store.line(0) == ("\x1b[31m日本\x1b[0m é", Kind.STDERR, 14, 123, 6, True)
    store.append("", Kind.NOTE, 2**40, -1)
    assert store.line(1) == ("", Kind.NOTE, 2**40, -1, 0, False)


def test_numbers_stay_while_the_oldest_are_dropped() -> None:
    store = filled(5 * BLOCK_LINES, most_lines=2 * BLOCK_LINES)
    assert BLOCK_LINES < len(store) <= 2 * BLOCK_LINES
    assert store.end == 5 * BLOCK_LINES
    assert store.line(store.first).text == f"line {store.first}"
    with pytest.raises(KeyError):
        store.line(store.first - 1)


def test_long_lines_are_bounded_by_their_bytes() -> None:
    store = Store(most_bytes=1 << 20)
    for _ in range(3 * BLOCK_LINES):
        store.append("x" * 200, Kind.STDOUT, 1, 0)
    assert store.size_bytes <= 1 << 20
    assert store.end == 3 * BLOCK_LINES


def test_the_end_may_be_taken_back_also_over_a_blocks_edge() -> None:
    rng = random.Random(5)
    store, wanted = Store(), list[str]()
    for at in range(3 * BLOCK_LINES):
        if wanted and rng.random() < 0.1:
            back = min(rng.randrange(64), len(wanted))
            del wanted[len(wanted) - back :]
            store.truncate(len(wanted))
        store.append(f"{at}", Kind.STDOUT, 1, at)
        wanted.append(f"{at}")
        assert store.end == len(wanted)
    assert [store.line(at).text for at in range(store.end)] == wanted
    assert store.size_bytes == sum(len(line) + 1 for line in wanted)


def test_everything_may_be_taken_back() -> None:
    store = filled(BLOCK_LINES + 1)
    store.truncate(0)
    assert (len(store), store.size_bytes) == (0, 0)


def test_plain_lines_of_a_block_are_its_lines_without_colours() -> None:
    store = Store()
    for text in ("a", "", "\x1b[1mb\x1b[0m", "c\u2028d\x85e"):
        store.append(text, Kind.STDOUT, 1, 0)
    assert store.block(0).plain_lines() == ["a", "", "b", "c\u2028d\x85e"]
