"""The pen: the colours and attributes that a terminal writes with, and what SGR makes of it.

Pure values; how a pen looks on the screen is `sgr.py`'s. Source: ECMA-48 8.3.117, ITU-T T.416 for
the colon forms, and xterm's control sequences. Blink and conceal are dropped: a log hides nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BOLD",
    "DEFAULT",
    "DIM",
    "ITALIC",
    "REVERSE",
    "RGB",
    "STRIKE",
    "UNDERLINE",
    "Pen",
    "apply",
    "opening",
    "with_link",
]

BOLD, DIM, ITALIC, UNDERLINE, REVERSE, STRIKE = 1, 2, 4, 8, 16, 32
RGB = 1 << 24  # a colour at or above it is a truecolor one: RGB | 0xRRGGBB

_ON = {1: BOLD, 2: DIM, 3: ITALIC, 4: UNDERLINE, 7: REVERSE, 9: STRIKE, 21: UNDERLINE}
_OFF = {22: BOLD | DIM, 23: ITALIC, 24: UNDERLINE, 27: REVERSE, 29: STRIKE}
_CODES = {BOLD: "1", DIM: "2", ITALIC: "3", UNDERLINE: "4", REVERSE: "7", STRIKE: "9"}
_FOREGROUND, _BACKGROUND, _UNDERLINE_COLOUR = 38, 48, 58


class Pen(NamedTuple):
    """A colour is None (the default), an index of 0 to 255, or `RGB` | 0xRRGGBB."""

    foreground: int | None = None
    background: int | None = None
    attributes: int = 0
    link: str = ""


DEFAULT = Pen()


@lru_cache(maxsize=4096)
def apply(pen: Pen, parameters: str) -> Pen:
    """The pen after `ESC [ parameters m`; what is unknown or malformed changes nothing."""
    if parameters in ("", "0"):
        return Pen(link=pen.link)
    codes = iter(parameters.split(";"))
    for code in codes:
        pen = _extended(pen, code) if ":" in code else _one(pen, _number(code), codes)
    return pen


def with_link(pen: Pen, link: str) -> Pen:
    """The pen within an OSC 8 hyperlink; an empty one ends it."""
    return pen._replace(link=link)


@lru_cache(maxsize=4096)
def opening(pen: Pen) -> str:
    """What turns the default pen into this one, as escape sequences."""
    codes = [code for bit, code in _CODES.items() if pen.attributes & bit]
    codes += _colour_codes(pen.foreground, _FOREGROUND)
    codes += _colour_codes(pen.background, _BACKGROUND)
    sgr = f"\x1b[{';'.join(codes)}m" if codes else ""
    return f"\x1b]8;;{pen.link}\x1b\\{sgr}" if pen.link else sgr


def _colour_codes(colour: int | None, introducer: int) -> list[str]:
    if colour is None:
        return []
    if colour < 8:
        return [str(introducer - 8 + colour)]
    if colour < RGB:
        return [f"{introducer};5;{colour}"]
    return [f"{introducer};2;{colour >> 16 & 255};{colour >> 8 & 255};{colour & 255}"]


def _one(pen: Pen, code: int, rest: Iterator[str]) -> Pen:
    """One code; an extended colour takes its arguments from `rest`."""
    foreground, background, attributes, link = pen
    if code == 0:
        return Pen(link=link)
    if code in _ON:
        return Pen(foreground, background, attributes | _ON[code], link)
    if code in _OFF:
        return Pen(foreground, background, attributes & ~_OFF[code], link)
    if code in (_FOREGROUND, _BACKGROUND, _UNDERLINE_COLOUR):
        return _coloured(pen, code, _colour(_arguments(rest)))
    return _palette(pen, code)


def _palette(pen: Pen, code: int) -> Pen:
    for first, offset in ((30, 0), (90, 8)):
        if first <= code < first + 8:
            return pen._replace(foreground=code - first + offset)
        if first + 10 <= code < first + 18:
            return pen._replace(background=code - first - 10 + offset)
    if code == 39:
        return pen._replace(foreground=None)
    return pen._replace(background=None) if code == 49 else pen


def _arguments(rest: Iterator[str]) -> list[int]:
    kind = _number(next(rest, ""))
    count = {5: 1, 2: 3}.get(kind, 0)
    return [kind, *(_number(next(rest, "")) for _ in range(count))]


def _extended(pen: Pen, code: str) -> Pen:
    """A code with subparameters: `4:3`, `38:5:208`, `38:2::255:0:0`, `38:2:255:0:0`."""
    introducer, *arguments = (_number(part) for part in code.split(":"))
    if introducer == 4:
        bits = pen.attributes
        return pen._replace(attributes=bits | UNDERLINE if any(arguments) else bits & ~UNDERLINE)
    if introducer not in (_FOREGROUND, _BACKGROUND):
        return pen
    if arguments[:1] == [2] and len(arguments) > 4:
        del arguments[1]  # the colour space
    return _coloured(pen, introducer, _colour(arguments))


def _coloured(pen: Pen, introducer: int, colour: int | None) -> Pen:
    if colour is None or introducer == _UNDERLINE_COLOUR:
        return pen
    if introducer == _FOREGROUND:
        return pen._replace(foreground=colour)
    return pen._replace(background=colour)


def _colour(arguments: list[int]) -> int | None:
    match arguments:
        case [5, index] if 0 <= index < 256:
            return index
        case [2, red, green, blue, *_] if all(0 <= part < 256 for part in (red, green, blue)):
            return RGB | red << 16 | green << 8 | blue
    return None


def _number(text: str) -> int:
    """0 for an empty parameter, as ECMA-48 has it; -1 for one that is out of all bounds."""
    if not text:
        return 0
    return int(text) if len(text) < 6 and text.isdecimal() else -1
