"""The last traceback of a program's output: what was raised, where, and how much came after it.

Knows how Python prints one, also of an exception group and of what does not compile, and how
`rich` does. Pure; does not judge whether it is why the program ended.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Place", "Raised", "last_raised"]

LONGEST_LINE = 400
NEAR_LINES = 8  # between the frame and the exception of what does not compile

_HEADER = "Traceback (most recent call last)"
_GROUP = re.compile(r"^ +[|+](?: |$)")
_RULE = re.compile(r"^ +\+[-+]|^\s*[╭╰]")
# As the interpreter prints an exception: a dotted name, and what it says of itself.
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.<>]*(?::.*)?$")
_ERROR = re.compile(r"^[A-Za-z_][\w.]*Error(?::.*)?$")
_FRAME = re.compile(r'^\s*File "(?P<path>[^"<][^"]*)", line (?P<line>\d+)')
_RICH_FRAME = re.compile(r"^\s*(?P<path>[^\s:][^:]*\.\w+):(?P<line>\d+) in ")


class Place(NamedTuple):
    path: str  # as the traceback has it: a path of the box
    line: int


class Raised(NamedTuple):
    """`at`: which line names the exception. `lines_after` it: those that say something."""

    exception: str
    frames: tuple[Place, ...]  # the innermost one last
    at: int
    lines_after: int


def last_raised(lines: Sequence[str]) -> Raised | None:
    found = [_with_header(lines), _uncompiled(lines)]
    return max((raised for raised in found if raised), key=lambda raised: raised.at, default=None)


def _with_header(lines: Sequence[str]) -> Raised | None:
    start = next((at for at in range(len(lines) - 1, -1, -1) if _HEADER in lines[at]), None)
    if start is None:
        return None
    bare = _stripper(lines[start])
    for at in range(start + 1, len(lines)):
        if _EXCEPTION.match(bare(lines[at])):
            return _raised(lines, start, at, bare)
    return None


def _uncompiled(lines: Sequence[str]) -> Raised | None:
    """Of the entrypoint itself: Python prints file and line, and no header."""
    at = next((at for at in range(len(lines) - 1, -1, -1) if _ERROR.match(lines[at])), 0)
    for start in range(at - 1, max(at - NEAR_LINES, -1), -1):
        if _FRAME.match(lines[start]):
            return _raised(lines, start, at, str)
        if lines[start] and not lines[start].startswith(" "):
            break
    return None


def _raised(lines: Sequence[str], start: int, at: int, bare: Callable[[str], str]) -> Raised:
    texts = _rejoined(bare(line) for line in lines[start:at])
    matches = [match for text in texts if (match := _FRAME.match(text) or _RICH_FRAME.match(text))]
    frames = tuple(Place(match["path"], int(match["line"])) for match in matches)
    after = sum(1 for line in lines[at + 1 :] if bare(line).strip())
    return Raised(bare(lines[at])[:LONGEST_LINE], frames, at, after)


def _rejoined(texts: Iterable[str]) -> Iterator[str]:
    """A path that is wider than the box of `rich` goes on in the next line."""
    held = ""
    for text in texts:
        if text.startswith(" /") and not _RICH_FRAME.match(text):
            held += text.strip()
        else:
            yield held + text.strip() if held else text
            held = ""


def _stripper(header: str) -> Callable[[str], str]:
    """Takes away what this kind of traceback is framed with."""
    if "╭" in header:
        return _without_box
    return _without_bars if _GROUP.match(header) else str


def _without_box(line: str) -> str:
    text = line.strip()
    return "" if _RULE.match(line) else text.strip("│❱") if text.startswith("│") else line


def _without_bars(line: str) -> str:
    return "" if _RULE.match(line) else _GROUP.sub("", line)
