"""Values over time: bounded, and drawn in one row or as a plot. Knows neither what nor where."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["HISTORY", "Series", "percentile", "plot", "sparkline"]

HISTORY = 1800  # values: half an hour of samples, one a second

_BARS = "▁▂▃▄▅▆▇█"


class Series:
    """The newest `HISTORY` values, oldest first."""

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._values: deque[float] = deque(values, maxlen=HISTORY)

    def add(self, value: float) -> None:
        self._values.append(value)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def last(self) -> float:
        return self._values[-1] if self._values else 0.0

    @property
    def highest(self) -> float:
        return max(self._values, default=0.0)

    def newest(self, count: int) -> list[float]:
        """At most `count`, oldest first."""
        if count <= 0:
            return []
        start = max(len(self._values) - count, 0)
        return [self._values[at] for at in range(start, len(self._values))]

    def condensed(self, count: int) -> list[float]:
        """All of them in at most `count`, each the highest of as many; the newest of fewer."""
        values = list(self._values)
        step = -(-len(values) // count) if count > 0 else 0
        return [max(values[at : at + step]) for at in range(0, len(values), step)] if step else []


def sparkline(values: Sequence[float], width: int, top: float) -> str:
    """`width` columns, the newest value rightmost; `top` is a full bar. Blank where nothing was."""
    shown = values[-width:] if width > 0 else ()
    bars = "".join(_BARS[_level(value, top, len(_BARS) - 1)] for value in shown)
    return bars.rjust(width)


def plot(values: Sequence[float], width: int, height: int, top: float) -> list[str]:
    """`height` rows of `width` columns, top row first; a column's bar reaches to its value."""
    shown = list(values[-width:]) if width > 0 else []
    steps = height * len(_BARS)
    levels = [_level(value, top, steps - 1) + 1 for value in shown]
    rows = []
    for row in range(height):
        floor = (height - 1 - row) * len(_BARS)
        cells = "".join(_cell(level - floor) for level in levels)
        rows.append(cells.rjust(width))
    return rows


def _cell(eighths: int) -> str:
    return " " if eighths <= 0 else _BARS[min(eighths, len(_BARS)) - 1]


def _level(value: float, top: float, most: int) -> int:
    return round(min(max(value / top, 0.0), 1.0) * most) if top > 0 else 0


def percentile(values: Iterable[float], percent: float) -> float:
    """The nearest-rank percentile; 0 of nothing."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]
