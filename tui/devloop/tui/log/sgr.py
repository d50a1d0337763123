"""A settled line's text to spans and to segments: the only escapes in it are SGR and OSC 8.

A line is parsed on its own, from the default pen: the assembler wrote the pen at its start into it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from rich.color import Color
from rich.segment import Segment
from rich.style import Style

from . import pen as pens
from .pen import Pen

__all__ = ["ESCAPE", "plain", "segments", "spans", "style_of"]

# An odd number of parts comes from splitting: text, SGR parameters or None, link or None, text, …
ESCAPE = re.compile(r"\x1b(?:\[([0-9;:]*)m|\]8;[^;\x1b]*;([^\x1b]*)\x1b\\)")


def plain(text: str) -> str:
    """The text without its escapes."""
    return ESCAPE.sub("", text) if "\x1b" in text else text


def spans(text: str) -> list[tuple[str, Pen]]:
    """The text in pieces, none of them empty, each with the pen that it is written with."""
    if "\x1b" not in text:
        return [(text, pens.DEFAULT)] if text else []
    parts = ESCAPE.split(text)
    pen = pens.DEFAULT
    found = [(parts[0], pen)] if parts[0] else []
    for at in range(1, len(parts), 3):
        parameters = parts[at]
        if parameters is not None:
            pen = pens.apply(pen, parameters)
        else:
            pen = pens.with_link(pen, parts[at + 1])
        if parts[at + 2]:
            found.append((parts[at + 2], pen))
    return found


def segments(text: str) -> list[Segment]:
    return [Segment(piece, style_of(pen)) for piece, pen in spans(text)]


@lru_cache(maxsize=4096)
def style_of(pen: Pen) -> Style:
    """How a pen looks; the default pen sets nothing."""

    def has(bit: int) -> bool | None:
        return bool(pen.attributes & bit) or None

    return Style(
        color=_colour(pen.foreground),
        bgcolor=_colour(pen.background),
        bold=has(pens.BOLD),
        dim=has(pens.DIM),
        italic=has(pens.ITALIC),
        underline=True if pen.link else has(pens.UNDERLINE),
        reverse=has(pens.REVERSE),
        strike=has(pens.STRIKE),
    )


def _colour(colour: int | None) -> Color | None:
    if colour is None:
        return None
    if colour < pens.RGB:
        return Color.from_ansi(colour)
    return Color.from_rgb(colour >> 16 & 255, colour >> 8 & 255, colour & 255)
