"""Patterns as they are typed, what counts as an error, and matches of a store that changes."""

from __future__ import annotations

import random

import pytest

from devloop.tui.log.search import ERRORS, Matches, Pattern
from devloop.tui.log.store import BLOCK_LINES, Kind, Store


@pytest.mark.parametrize(
    ("source", "line", "matches"),
    [
        ("loss", "Loss=1", True),
        ("Loss", "loss=1", False),
        (r"\Sx", "ax", True),
        (r"\Sx", "AX", True),
        ("!loss", "loss", False),
        ("! loss", "step", True),
        (r"\!x", "a !x", True),
        ("a(b", "xa(b", True),
        ("step +[0-9]{2}$", "step  12", True),
    ],
)
def test_a_pattern_is_read_as_it_is_meant(source: str, line: str, matches: bool) -> None:
    assert Pattern.of(source).matches(line) is matches


def test_where_a_pattern_matches_is_known_unless_it_inverts() -> None:
    assert Pattern.of("o+").spans("foo bo") == [(1, 3), (5, 6)]
    assert Pattern.of("!o").spans("foo") == []
    assert Pattern.of("x*").spans("ab") == []


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: bad",
        "KeyboardInterrupt",
        "AssertionError",
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate",
        "click.exceptions.Abort: x",
        "  | ValueError: in a group",
        "2026-01-01 12:00:00 ERROR something",
        "[rank0] CRITICAL: x",
        "train.cu(12): error: expected a ;",
        "fatal: not a git repository",
        "FAILED tests/test_x.py::test_y",
        "Segmentation fault (core dumped)",
    ],
)
def test_an_error_is_found(line: str) -> None:
    store = Store()
    store.append(line, Kind.STDERR, 1, 0)
    matches = Matches(ERRORS, store)
    matches.step()
    assert matches.count == 1


@pytest.mark.parametrize(
    "line",
    [
        "epoch 0: val_error=0.12",
        "no errors found",
        "    raise ValueError('x')",
        "Traceback (most recent call last):",
        "INFO retrying after failure",
        "squared error 0.1",
    ],
)
def test_what_only_speaks_of_errors_is_none(line: str) -> None:
    assert not ERRORS.matches(line)


def test_matches_stay_true_while_lines_come_are_rewritten_and_dropped() -> None:
    rng = random.Random(7)
    store = Store(most_lines=3 * BLOCK_LINES)
    matches = Matches(Pattern.of("7"), store)
    for at in range(3000):
        start = store.end
        if rng.random() < 0.3:
            start = max(store.first, store.end - rng.randrange(60))
            store.truncate(start)
        for _ in range(rng.randrange(30)):
            store.append(f"{rng.randrange(100)}", Kind.STDOUT, 1, 0)
        matches.forget_from(start)
        matches.forget_dropped()
        if rng.random() < 0.5:
            matches.step()
        if at % 500 == 0:
            check(store, matches)
    check(store, matches)
    assert store.first > 0


def check(store: Store, matches: Matches) -> None:
    while matches.step() is not None:
        pass
    assert matches.is_complete
    wanted = [at for at in range(store.first, store.end) if "7" in store.line(at).text]
    found = [
        block * BLOCK_LINES + place for block in store.blocks() for place in matches.in_block(block)
    ]
    assert found == wanted
    assert matches.count == len(wanted)
    if wanted:
        middle = wanted[len(wanted) // 2]
        assert matches.before(store.end) == wanted[-1]
        assert matches.after(store.first - 1) == wanted[0]
        assert matches.after(matches.before(middle) or 0) == middle


def test_the_newest_lines_are_looked_at_first() -> None:
    store = Store()
    for at in range(3 * BLOCK_LINES):
        store.append(f"{at}", Kind.STDOUT, 1, 0)
    matches = Matches(Pattern.of("1"), store)
    assert [matches.step() for _ in range(4)] == [2, 1, 0, None]


def test_what_is_no_regular_expression_is_known_to_be_taken_as_text() -> None:
    assert Pattern.of("99|[").is_text
    assert Pattern.of("99|[").matches("a 99|[ b")
    assert not Pattern.of("99|1").is_text
