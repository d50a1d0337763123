"""What of a line can be opened."""

from __future__ import annotations

import time

import pytest

from devloop.tui.log.links import links


@pytest.mark.parametrize(
    ("text", "shown", "path", "line", "url"),
    [
        ('  File "/w/a b.py", line 12, in f', 'File "/w/a b.py", line 12', "/w/a b.py", 12, ""),
        ("tests/x.py:7: AssertionError", "tests/x.py:7", "tests/x.py", 7, ""),
        (
            "see https://a.example/x?y=1.",
            "https://a.example/x?y=1",
            "",
            0,
            "https://a.example/x?y=1",
        ),
        ("(http://a.example)", "http://a.example", "", 0, "http://a.example"),
        ("http://a/b_(c)", "http://a/b_(c)", "", 0, "http://a/b_(c)"),
        ("../k.cu:3:9: error: x", "../k.cu:3", "../k.cu", 3, ""),
    ],
)
def test_a_link_is_found(text: str, shown: str, path: str, line: int, url: str) -> None:
    (link,) = links(text)
    assert text[link.start : link.end] == shown
    assert (link.path, link.line, link.url) == (path, line, url)


@pytest.mark.parametrize("text", ["", "12:00:11 INFO", "loss: 1", "a.b:c", "ratio 3.py", "ftp://x"])
def test_other_text_holds_none(text: str) -> None:
    assert links(text) == ()


@pytest.mark.parametrize("piece", ["a/", "a.", "a", 'File "', "http://", "a.py:"])
def test_a_long_line_takes_no_long_time(piece: str) -> None:
    before = time.process_time()
    links(piece * (16_000 // len(piece)) + ":x")
    assert time.process_time() - before < 0.2
