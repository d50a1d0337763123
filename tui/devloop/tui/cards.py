"""The cards of what went wrong, and what to press about it.

From the view to spans. Decides no layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .failure import in_project
from .series import sparkline
from .spans import Line, Part, Span, cut, fit, folded
from .state import Link, RunRow, View
from .words import plain, seconds, size

if TYPE_CHECKING:
    from devloop.sync.metrics import SampleProcess

    from .state import MemoryPast

__all__ = ["card"]

MEMORY_COLUMNS = 60
PROCESSES_SHOWN = 2
AT_BREAKPOINT = "bdb.BdbQuit"
INDENT, HINT = Span("   "), Span("   hint: ", "dim")
KILLED_WORDS = "by somebody, or for want of memory, of which the kernel's log says nothing"


def card(view: View, width: int, now_s: float) -> list[Line]:
    """What went wrong, and what to press; empty: nothing did."""
    if view.link is Link.OVER:
        return _over_card(view, width)
    row = view.newest
    lines: list[Line] = []
    if row is not None and row.was_taken_down:
        lines = _lost_lines(row, width, now_s)
    elif row is None or row.end is None or not row.has_failed or row.failure is None:
        pass
    elif row.failure.is_oom:
        lines = _oom_lines(row, width)
    else:
        lines = _exit_lines(row, width)
    return [cut(line, width) for line in lines]


def _over_card(view: View, width: int) -> list[Line]:
    words = view.link_words or "the session has ended"
    lines = folded(Span(" ⊘ ", "bad"), Span(plain(words), "strong"), width)
    if view.link_hint:
        lines += folded(HINT, Span(plain(view.link_hint)), width)
    lines.append([Span("   r tries again   q leaves", "dim")])
    return [cut(line, width) for line in lines]


def _lost_lines(row: RunRow, width: int, now_s: float) -> list[Line]:
    """It went with its agent or its container, of which the next run starts another."""
    reason = row.end.reason if row.end is not None else ""
    why = reason.removeprefix("lost: ") or "its agent is another one, which knows nothing of it"
    what = "container" if reason.startswith("its container") else "agent"
    words = f"run {row.number} was lost after {seconds(row.duration_s(now_s))}"
    return [
        [Span(" ✗ ", "bad"), Span(words, "strong")],
        *folded(INDENT, Span(plain(why), "bad"), width),
        [Span(f"   r, or a save, runs again, in another {what}", "dim")],
    ]


def _exit_lines(row: RunRow, width: int) -> list[Line]:
    assert row.end is not None
    assert row.failure is not None
    words = f"run {row.number} {row.end.words} after {seconds(row.end.wall_s)}"
    lines: list[Line] = [[Span(" ✗ ", "bad"), Span(words, "strong")]]
    if row.failure.words:
        lines += folded(INDENT, Span(plain(row.failure.words), "bad"), width)
    if row.end.start_failed and row.end.detail:
        lines += folded(HINT, Span(plain(row.end.detail)), width)
    if row.failure.is_killed:
        lines += folded(INDENT, Span(KILLED_WORDS, "dim"), width)
    for memory in row.failure.memories:
        lines += _memory_lines(memory, width)
    place = row.failure.place
    if row.failure.exception.startswith(AT_BREAKPOINT):
        lines.append([Span("   a breakpoint() waits for nobody here: d debugs it", "dim")])
    elif place is not None:
        where = f"{plain(in_project(place.path))}:{place.line}"
        keys = Part([Span("e shows it   o opens it", "dim")], 1)
        lines.append([Span("   "), *fit([Part([Span(where)]), keys], width - 3)])
    return lines


def _oom_lines(row: RunRow, width: int) -> list[Line]:
    """As it was at the run's end, whatever the memories hold by now."""
    assert row.end is not None
    assert row.failure is not None
    failure, end = row.failure, row.end
    lines: list[Line] = [
        [Span(" ✗ OUT OF MEMORY ", "bad"), Span(f" run {row.number} {end.words}", "strong")]
    ]
    if failure.exception:
        lines += folded(INDENT, Span(plain(failure.exception), "bad"), width)
    for memory in failure.memories:
        lines += _memory_lines(memory, width)
    if end.peak_memory_bytes:
        lines.append([Span(f"   largest process of the run {size(end.peak_memory_bytes)}")])
    if end.is_out_of_memory:
        lines += folded(Span("   kernel: ", "dim"), Span(plain(end.detail)), width)
    return lines


def _memory_lines(memory: MemoryPast, width: int) -> list[Line]:
    most, total = size(memory.highest_bytes), size(memory.total_bytes)
    words = f"   {memory.name}, most {most} of {total} "
    columns = min(max(width - len(words) - 1, 0), MEMORY_COLUMNS)
    spark = sparkline(memory.values[-columns:] if columns else [], columns, memory.total_bytes)
    return [
        [Span(words), Span(spark.strip(), "accent")],
        *(_process_line(process) for process in memory.processes[:PROCESSES_SHOWN]),
    ]


def _process_line(process: SampleProcess) -> Line:
    mark = "▶" if process.run else " "
    said = f"{mark} {process.pid} {process.user} {size(process.memory_bytes)} {process.command}"
    return [Span(f"    {plain(said)}", "" if process.run else "dim")]
