"""SGR to pens and to styles; the plain forms are compared with pyte in test_assembler."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devloop.tui.log.pen import (
    BOLD,
    DEFAULT,
    DIM,
    REVERSE,
    RGB,
    STRIKE,
    UNDERLINE,
    Pen,
    apply,
    opening,
)
from devloop.tui.log.sgr import plain, segments, spans, style_of

COLOURS = st.none() | st.integers(0, 255) | st.integers(RGB, RGB | 0xFFFFFF)
PENS = st.builds(Pen, COLOURS, COLOURS, st.integers(0, 63), st.sampled_from(["", "https://a/b"]))


@pytest.mark.parametrize(
    ("parameters", "pen"),
    [
        ("", DEFAULT),
        ("1;2", Pen(attributes=BOLD | DIM)),
        ("4:3", Pen(attributes=UNDERLINE)),
        ("4;4:0", DEFAULT),
        ("38:5:208", Pen(208)),
        ("38:2::1:2:3", Pen(RGB | 0x010203)),
        ("48:2:1:2:3;9", Pen(None, RGB | 0x010203, STRIKE)),
        ("58;5;1;7", Pen(attributes=REVERSE)),
        ("38;5;256;1", Pen(attributes=BOLD)),
        ("38;2;1;2;300;1", Pen(attributes=BOLD)),
        ("38", DEFAULT),
        ("99999999999;31", Pen(1)),
        ("8;5", DEFAULT),
    ],
)
def test_parameters_make_a_pen(parameters: str, pen: Pen) -> None:
    assert apply(DEFAULT, parameters) == pen


@given(PENS)
def test_what_a_pen_opens_with_is_read_as_the_same_pen(pen: Pen) -> None:
    assert spans(opening(pen) + "x") == [("x", pen)]


@given(PENS, st.sampled_from(["0", ""]))
def test_a_reset_leaves_nothing_but_the_link(pen: Pen, reset: str) -> None:
    assert apply(pen, reset) == Pen(link=pen.link)


@given(st.text("0123456789;:", max_size=40))
def test_no_parameters_are_an_error(parameters: str) -> None:
    assert apply(apply(DEFAULT, "31"), parameters) is not None


def test_a_line_becomes_segments_and_plain_text() -> None:
    text = "a\x1b[1;38;2;1;2;3mb\x1b]8;;https://x/\x1b\\c\x1b]8;;\x1b\\\x1b[0md"
    assert plain(text) == "abcd"
    found = segments(text)
    assert [segment.text for segment in found] == ["a", "b", "c", "d"]
    style = found[1].style
    assert style is not None
    assert (style.bold, style.color.triplet if style.color else None) == (True, (1, 2, 3))
    assert found[2].style is not None
    assert found[2].style.underline
    assert found[0].style == found[3].style == style_of(DEFAULT)
