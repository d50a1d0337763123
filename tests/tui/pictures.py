"""The screen in each state worth a picture, with clock and data fixed; and a picture's text."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from devloop.sync.events import Paused, Reconnecting
from devloop.sync.metrics import GpuState

from .fakes import (
    TRACEBACK,
    connected,
    ended,
    finished,
    first_output,
    printed,
    sample,
    started,
)

if TYPE_CHECKING:
    from devloop.tui.app import UpApp

SIZES = ((60, 15), (80, 24), (160, 45))
STATES = ("running", "failed", "disconnected", "paused", "no_gpu")

_TEXT = re.compile(r'<text class="[^"]*" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>')
_MATRIX = re.compile(r'<g class="[^"]*-matrix">(.*?)</g>', re.DOTALL)
CELL_WIDTH = 12.2


class Clock:
    """Monotonic seconds, as a test sets them."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def show(app: UpApp, clock: Clock, state: str) -> None:
    """Brings the screen into the state, as a session would."""
    app.event(connected())
    _earlier_runs(app, clock)
    samples = GpuState.NONE if state == "no_gpu" else GpuState.OK
    for at in range(90):
        app.sample(sample(at, state=samples))
    app.round_trip(0.0021)
    app.event(started(14))
    app.event(first_output(14))
    lines = (f"step={i:5} loss={8 / (i + 9):.4f} tok/s={51000 + i}\n" for i in range(60))
    app.event(printed(14, "".join(lines)))
    clock.now_s += 12.4
    app.sample(sample(91, state=samples))
    match state:
        case "failed":
            app.event(printed(14, TRACEBACK, stderr=True))
            app.event(finished(14, ended(1)))
        case "disconnected":
            app.event(Reconnecting("the box does not answer", 0.0))
            clock.now_s += 4.2
            app.event(Reconnecting("the box does not answer", 0.8))
            clock.now_s += 0.3
        case "paused":
            app.event(Paused(paused=True))
            app.log_pane.flush()
            app.log_pane.action_page(-1)
            app.event(printed(14, "".join(f"new line {i}\n" for i in range(312)), record=1))
    app.log_pane.flush()
    app.draw()


def _earlier_runs(app: UpApp, clock: Clock) -> None:
    app.event(started(12, paths=()))
    app.event(printed(12, "hello\n"))
    app.event(finished(12, ended(0, wall_s=31.0)))
    app.event(started(13))
    app.event(first_output(13, 0.021))
    app.event(finished(13, ended(130, signal=2, reason="stopped for a restart", wall_s=4.2)))
    clock.now_s += 40


def text_of_picture(svg: str, columns: int) -> str:
    """The characters of a picture in their rows, without what is random or colour."""
    matrix = _MATRIX.search(svg)
    rows: dict[float, list[str]] = {}
    for x, y, text in _TEXT.findall(matrix[1] if matrix else svg):
        cells = rows.setdefault(float(y), [" "] * columns)
        start = round(float(x) / CELL_WIDTH)
        for at, character in enumerate(html.unescape(text).replace("\xa0", " ")):
            if start + at < columns:
                cells[start + at] = character
    return "\n".join("".join(rows[y]).rstrip() for y in sorted(rows)) + "\n"
