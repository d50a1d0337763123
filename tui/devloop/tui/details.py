"""What sync does and knows, and the history of runs.

From the view to spans. Decides no layout.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .header import files_words, progress_line, run_state
from .spans import Line, Span, cut, width_of
from .state import Link, RunRow, View
from .warmth import ahead_line, image_line, start_line
from .words import milliseconds, plain, seconds, size, stamp

if TYPE_CHECKING:
    from devloop.sync.progress import Progress


__all__ = [
    "ended_words",
    "run_line",
    "runs_title",
    "started_words",
    "sync_pane",
]

LABEL_COLUMNS = 8
PATHS_SHOWN = 2
RTT_SLOW_S = 0.15
SYNC_FROM_COLUMNS = 54
OUTPUT_FROM_COLUMNS = 42
END_COLUMNS = 8


def sync_pane(view: View, progress: Progress, width: int, now_s: float) -> list[Line]:
    lines = [_state_line(view, progress, width, now_s)]
    lines.append(_labelled("change", _change(view, now_s), width))
    row = view.last_cycle
    if row is not None:
        lines.append(_labelled("sent", _sent(row), width))
    if len(view.cycles_s) > 1:
        words = f"p50 {milliseconds(view.p50_s)}  p99 {milliseconds(view.p99_s)} ms"
        lines.append(
            _labelled("cycle", [Span(words), Span(f"  of {len(view.cycles_s)}", "dim")], width)
        )
    lines.append(_labelled("link", _link(view), width))
    lines.append(_labelled("agent", _agent(view, now_s), width))
    if view.image:
        lines.append(_labelled("image", image_line(view), width))
    if ahead := ahead_line(view):
        lines.append(_labelled("files", ahead, width))
    lines.append(_labelled("start", start_line(view), width))
    if view.pulled is not None:
        words = f"{files_words(view.pulled.files)}, {size(view.pulled.size_bytes)}"
        lines.append(_labelled("pulled", [Span(words)], width))
    return lines


def _labelled(label: str, value: Line, width: int) -> Line:
    return cut([Span(f" {label:<{LABEL_COLUMNS - 1}}", "dim"), *value], width)


def _state_line(view: View, progress: Progress, width: int, now_s: float) -> Line:
    if view.link is Link.LOST:
        what = "agent gone, starting another" if view.is_local else "link lost"
        return _labelled("state", [Span(f"⊘ {what}", "bad")], width)
    if busy := progress_line(progress, width, now_s, view.warmth):
        return busy
    if view.link is Link.UP and view.has_restarted(now_s):
        return _labelled("state", [Span("↻ agent restarted; files are checked", "warn")], width)
    if view.is_paused:
        return _labelled("state", [Span("‖ paused: saves are noted", "warn")], width)
    if view.waits_for:
        numbers = ", ".join(map(str, view.waits_for))
        return _labelled("state", [Span(f"… waits for run {numbers}", "warn")], width)
    if view.link is Link.UP:
        return _labelled("state", [Span("✓ up to date", "good")], width)
    return _labelled("state", [Span(f"… {view.link.value}", "warn")], width)


def _change(view: View, now_s: float) -> Line:
    if not view.last_change:
        return [Span("none yet", "dim")]
    shown = ", ".join(plain(os.fsdecode(path)) for path in view.last_change[:PATHS_SHOWN])
    more = len(view.last_change) - PATHS_SHOWN
    words = f"{shown} and {more} more" if more > 0 else shown
    return [Span(words), Span(f"  {seconds_ago(now_s - view.last_change_s)}", "dim")]


def seconds_ago(age_s: float) -> str:
    if age_s < 60:
        return f"{age_s:.0f} s ago"
    return f"{age_s / 60:.0f} min ago" if age_s < 3600 else f"{age_s / 3600:.0f} h ago"


def _sent(row: RunRow) -> Line:
    if not row.files_sent:
        return [Span("nothing to send", "dim")]
    rate = row.bytes_sent / row.cycle.upload_s if row.cycle.upload_s > 1 else 0.0
    words = f"{files_words(row.files_sent)}, {size(row.bytes_sent)} in {seconds(row.cycle.sync_s)}"
    return [Span(words), Span(f"  {size(rate)}/s" if rate else "", "dim")]


def _link(view: View) -> Line:
    if view.link is Link.LOST:
        return [Span(plain(view.link_words), "bad")]
    if not view.rtt_s:
        return [Span(view.link.value, "dim")]
    words = f"round trip {milliseconds(view.rtt_s)} ms"
    return [Span(words, "warn" if view.rtt_s > RTT_SLOW_S else "")]


def _agent(view: View, now_s: float) -> Line:
    if view.facts is None:
        return [Span("not reached yet", "dim")]
    facts = view.facts
    spans = [
        Span(f"{facts.agent_version} on {plain(facts.hostname)}"),
        Span(f"  {facts.isolation}", "dim"),
    ]
    if view.agents > 1:
        ago = f", {seconds_ago(now_s - view.restarted_s)}" if view.restarted_s else ""
        spans.insert(1, Span(f"  restarted {view.agents - 1}×{ago}", "warn"))
    return spans


# -- runs


def run_line(row: RunRow, width: int, now_s: float) -> Line:
    """Glyph, number, why, sync, save→out, time, how it ended: in columns, as many as fit."""
    glyph, word, style = run_state(row)
    out_s = row.cycle.total_s if row.cycle.output_s and row.is_from_save else 0.0
    columns: Line = []
    if width >= SYNC_FROM_COLUMNS:
        columns.append(Span(f" {milliseconds(row.cycle.sync_s):>5}", "dim"))
    if width >= OUTPUT_FROM_COLUMNS:
        columns.append(Span(f" {milliseconds(out_s) if out_s else '–':>5}"))
    columns.append(Span(f" {seconds(row.duration_s(now_s)):>6} "))
    columns.append(Span(f"{word:<{END_COLUMNS}}"[:END_COLUMNS], style))
    number = Span(f"{glyph} {row.number:>3} ", style)
    spare = width - width_of([number, *columns])
    return [number, *_padded(plain(row.reason), spare), *columns]


def runs_title(count: int, width: int) -> str:
    """Above the columns of `run_line`, as far as there is room: sync and save→out in ms."""
    columns = f"{'time':>7} {'exit':<{END_COLUMNS}}".replace(" ", "─")
    if width >= OUTPUT_FROM_COLUMNS:
        columns = f"{'out':─>6}{columns}"
    if width >= SYNC_FROM_COLUMNS:
        columns = f"{'sync':─>6}{columns}"
    head = f"RUNS · {count}"
    spare = width - 1 - len(head) - len(columns)  # a border's title starts in its second column
    return f"{head}{'─' * spare}{columns}".rstrip("─") if spare > 0 else head


def _padded(text: str, width: int) -> Line:
    line = cut([Span(text)], max(width, 0))
    return [*line, Span(" " * max(width - width_of(line), 0))]


def started_words(row: RunRow) -> str:
    """For the separator in the log: "run 14 · model.py changed · synced 3 files in 0.02 s"."""
    parts = [f"run {row.number}", plain(row.reason), row.gpu_words]
    if row.files_sent:
        parts.append(f"synced {files_words(row.files_sent)} in {seconds(row.cycle.sync_s)}")
    parts.append(stamp(row.started_ns))
    return " · ".join(part for part in parts if part)


def ended_words(row: RunRow) -> str:
    """For the end of a run in the log: "run 14 ✓ exit 0 · 12.4s · save→out 0.048s"."""
    glyph, word, _ = run_state(row)
    parts = [f"run {row.number} {glyph} {word}"]
    if not row.is_live:
        parts.append(seconds(row.duration_s(row.ended_s)))
    if row.cycle.output_s and row.is_from_save:
        parts.append(f"save→out {seconds(row.cycle.total_s)}")
    return " · ".join(parts)
