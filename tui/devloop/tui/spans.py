"""Text with a meaning, before any widget: spans whose styles are words, fitted into columns.

Owns truncation and what is left out first when there is no room. Knows no colour and no theme.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Line", "Part", "Span", "Style", "cut", "dimmed", "fit", "folded", "text_of", "width_of"]

Style: TypeAlias = Literal["", "dim", "strong", "good", "bad", "warn", "accent", "title"]
ELLIPSIS = "…"


class Span(NamedTuple):
    text: str
    style: Style = ""


Line: TypeAlias = list[Span]


class Part(NamedTuple):
    """Of a line; parts of the highest `rank` are left out first, rank 0 is only cut."""

    spans: Line
    rank: int = 0


def width_of(spans: Iterable[Span]) -> int:
    return sum(cell_len(span.text) for span in spans)


def text_of(lines: Iterable[Line]) -> str:
    return "\n".join("".join(span.text for span in line) for line in lines)


def cut(spans: Iterable[Span], width: int) -> Line:
    """At most `width` columns; what was cut ends with an ellipsis."""
    taken: Line = []
    left = width
    spans = list(spans)
    for at, span in enumerate(spans):
        columns = cell_len(span.text)
        if columns <= left and (columns < left or width_of(spans[at + 1 :]) == 0):
            taken.append(span)
            left -= columns
        elif left > 0:
            taken.append(Span(set_cell_size(span.text, left - 1).rstrip() + ELLIPSIS, span.style))
            break
    return taken


def folded(head: Span, text: Span, width: int, most: int = 3) -> list[Line]:
    """A sentence in rows under its head, between words; what finds no room in the last is cut."""
    indent = cell_len(head.text)
    rows = textwrap.wrap(text.text, max(width - indent, 1)) or [""]
    rows[most - 1 :] = [" ".join(rows[most - 1 :])] if len(rows) >= most else []
    heads = [head, *[Span(" " * indent)] * (len(rows) - 1)]
    return [cut([at, Span(row, text.style)], width) for at, row in zip(heads, rows, strict=True)]


def fit(parts: Sequence[Part], width: int, gap: str = "  ") -> Line:
    """The parts side by side, without those that find no room."""
    kept = [part for part in parts if part.spans]
    while len(kept) > 1 and _joined_width(kept, gap) > width:
        worst = max(kept, key=lambda part: part.rank)
        if worst.rank == 0:
            break
        kept.remove(worst)
    line: Line = []
    for part in kept:
        line += [Span(gap)] * bool(line) + part.spans
    return cut(line, width)


def _joined_width(parts: Sequence[Part], gap: str) -> int:
    return sum(width_of(part.spans) for part in parts) + len(gap) * (len(parts) - 1)


def dimmed(lines: Iterable[Line]) -> list[Line]:
    """What is no longer known to be so."""
    return [[Span(span.text, "dim") for span in line] for line in lines]
