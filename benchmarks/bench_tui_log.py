"""The log pane: lines settled a second, a frame's cost, a million lines' memory and search."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

from textual.app import App, ComposeResult

from devloop.tui.log.model import LogModel
from devloop.tui.log.pane import LogPane

__all__ = [
    "MillionLines",
    "PaneApp",
    "PaneFigures",
    "log_batches",
    "measure_million_lines",
    "measure_pane",
]

SIZE = (160, 45)
LINE = (
    b"\x1b[2m12:00:%02d\x1b[0m \x1b[32mINFO\x1b[0m step=%5d \x1b[1mloss\x1b[0m=%.4f "
    b"lr=3.0e-04 tok/s=51143\n"
)


class PaneFigures(NamedTuple):
    lines_per_s: float  # settled, from the bytes to a painted pane
    frame_cpu_s: float  # of one that shows 100 new lines


class MillionLines(NamedTuple):
    size_bytes: int  # of memory that they took
    lines_per_s: float
    search_s: float
    longest_step_s: float  # so long a search keeps the event loop


class PaneApp(App[None]):
    def compose(self) -> ComposeResult:
        yield LogPane()


def log_batches(lines: int, batch: int = 100) -> list[bytes]:
    """Coloured lines as a training run prints them, `batch` of them a piece."""
    rows = [LINE % (at % 60, at, 0.8) for at in range(lines)]
    return [b"".join(rows[at : at + batch]) for at in range(0, lines, batch)]


async def measure_pane(lines: int = 100_000, frames: int = 50) -> PaneFigures:
    """Of a headless pane of 160×45."""
    app = PaneApp()
    async with app.run_test(size=SIZE) as pilot:
        pane = app.query_one(LogPane)
        batches = log_batches(lines)
        start = time.perf_counter()
        for at, data in enumerate(batches):
            pane.append(1, "stdout", data, time.time_ns())
            if at % 10 == 9:
                await asyncio.sleep(0)
        pane.flush()
        await pilot.pause()
        settled_s = time.perf_counter() - start
        cpu_start = time.process_time()
        for data in batches[:frames]:
            pane.append(1, "stdout", data, time.time_ns())
            pane.flush()
            await pilot.pause()
        return PaneFigures(lines / settled_s, (time.process_time() - cpu_start) / frames)


def measure_million_lines(pattern: str = "[xyz]+loss") -> MillionLines:
    """In a process of its own, or what was freed before is counted as nothing."""
    before = _resident_bytes()
    model = LogModel()
    data = b"".join(log_batches(1000))
    start = time.perf_counter()
    for _ in range(1000):
        model.append(1, "stdout", data, time.time_ns())
    model.settle()
    settled_s = time.perf_counter() - start
    size_bytes = _resident_bytes() - before
    model.look_for(pattern)
    start, longest_s, goes_on = time.perf_counter(), 0.0, True
    while goes_on:
        step = time.perf_counter()
        goes_on = model.step()
        longest_s = max(longest_s, time.perf_counter() - step)
    return MillionLines(size_bytes, 1e6 / settled_s, time.perf_counter() - start, longest_s)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
