"""The top of the screen: the state of the run and the link, and the cycle of the last save.

From the view to spans; state is always glyph, word and colour.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from devloop.sync.metrics import ContainerState

from .spans import Line, Part, Span, Style, fit
from .state import Link, View, stages_of
from .warmth import is_container_starting, is_fetching_ahead
from .words import clock, milliseconds, plain, seconds, size

if TYPE_CHECKING:
    from devloop.sync.metrics import Warmth
    from devloop.sync.progress import Progress

    from .state import RunRow

__all__ = ["cycle_line", "files_words", "header", "progress_line", "run_state", "status_line"]

_INSTALL = {
    "python": "Python, by uv",
    "sending": "sending it",
    "unpacking": "unpacking",
    "fetching": "fetching what it needs",
}
_ENDING = {"stop": ("STOPPING ", "  X kills"), "kill": ("KILLING ", "")}
MARGIN = 1
LEAST_SHOWN_S = 0.00005  # of a stage: less reads 0.0


def header(view: View, progress: Progress, width: int, now_s: float) -> Line:
    """ " ▶ RUN 14 00:12.4  train.py @ h100-a:0  sync ✓ 3 files 0.021s  save→out 0.048s"."""
    run = view.newest
    parts = [
        *_link_parts(view, progress, now_s),
        Part(_run_part(view, progress, now_s)),
        Part(_paused(view), 1),
        Part(_place(view, run), 4),
        Part(_sync(run), 5),
        Part(_save_to_output(run), 3),
        Part(_exception(run)),  # the last one, which is cut
    ]
    return [Span(" " * MARGIN), *fit(parts, width - 2 * MARGIN)]


def status_line(view: View, progress: Progress, width: int, now_s: float) -> Line:
    """All there is in a terminal that is too small for more."""
    run = view.newest
    parts = [
        *_link_parts(view, progress, now_s),
        Part(_run_part(view, progress, now_s)),
        Part(_paused(view), 1),
        Part(_save_to_output(run), 2),
    ]
    return fit(parts, width)


def run_state(row: RunRow) -> tuple[str, str, Style]:
    """Glyph, word and style of a run's state."""
    if row.is_live and row.asked in _ENDING:
        return "■", "stops", "warn"
    if row.end is None:
        return ("?", "lost", "warn") if row.is_lost else ("▶", "runs", "accent")
    if row.end.was_taken_down:
        return "✗", "lost", "bad"
    if row.was_stopped:
        why = "interrupted" if row.was_interrupted else row.end.cause.partition(":")[0]
        return "■", plain(why), "warn"
    return ("✗", row.end.words, "bad") if row.end.status else ("✓", row.end.words, "good")


def _run_part(view: View, progress: Progress, now_s: float) -> Line:
    if view.leaving:
        return [Span(f"… LEAVING {plain(view.leaving)}", "warn")]
    if view.waits_for:
        numbers = ", ".join(map(str, view.waits_for))
        return [Span("… WAITS", "warn"), Span(f" for run {numbers}")]
    row = view.newest
    if row is None:
        return _no_run_yet(view, progress)
    glyph, word, style = run_state(row)
    if row.is_live:
        doing, hint = _ENDING.get(row.asked, ("", ""))
        time = Span(f" {clock(row.duration_s(now_s))}")
        words = Span(f"{glyph} {doing}RUN {row.number}", style)
        return [words, time, *([Span(hint, "warn")] if hint else [])]
    took = Span(f" {seconds(row.duration_s(now_s))}", "dim")
    return [Span(f"{glyph} RUN {row.number} {word}", style), took]


def _no_run_yet(view: View, progress: Progress) -> Line:
    if not view.command:
        return [Span("… NO COMMAND YET", "warn")]
    if view.link is Link.OPENING:
        word = {"install": "INSTALLING", "image": "IMAGE"}.get(progress.step or "", "CONNECTING")
        return [Span(f"… {word}", "accent")]
    if view.link is Link.UP and not is_container_starting(view):
        return [Span("… FIRST SYNC" if progress.step else "… STARTING", "accent")]
    return []


def _link_parts(view: View, progress: Progress, now_s: float) -> list[Part]:
    """What there is to say of link and agent, and what is being done about it."""
    if view.link is Link.LOST:
        what = "AGENT GONE" if view.is_local else "LINK LOST"
        lost = Span(f"⊘ {what} {now_s - view.link_lost_s:.0f} s", "bad")
        return [Part([lost]), Part([Span(_next_try(view, now_s), "warn")], 2)]
    if view.link is Link.UP and view.has_restarted(now_s):
        restarted = Span("↻ AGENT RESTARTED", "warn")
        return [Part([restarted]), Part([Span(_after_restart(view, progress), "warn")], 2)]
    if view.link is Link.UP and is_container_starting(view):
        again = view.warmth is not None and view.warmth.containers > 0
        word = "↻ CONTAINER RESTARTING" if again else "… CONTAINER STARTING"
        return [Part([Span(word, "warn" if again else "accent")])]
    if view.link is Link.OVER:
        words = "NOT CONNECTED" if view.facts is None else "SESSION ENDED"
        return [Part([Span(f"⊘ {words}", "bad")]), Part([Span("r connects again", "warn")], 2)]
    return []


def _next_try(view: View, now_s: float) -> str:
    left_s = view.next_try_s - now_s
    if left_s > 0.05:
        return f"next try in {left_s:.1f} s"
    return "starting another" if view.is_local else "trying now"


def _after_restart(view: View, progress: Progress) -> str:
    if progress.step is not None:
        return "checking the files"
    newest = view.newest
    return "r runs again" if newest is not None and newest.was_taken_down else "all is as before"


def _paused(view: View) -> Line:
    return [Span("‖ SAVES PAUSED", "warn")] if view.is_paused else []


def _exception(row: RunRow | None) -> Line:
    if row is None or row.failure is None or not row.failure.words:
        return []
    return [Span(plain(row.failure.words), "bad")]


def _place(view: View, row: RunRow | None) -> Line:
    gpus = row.gpu_words.removeprefix("GPUs ").removeprefix("GPU ") if row is not None else ""
    where = f"{view.host_name}:{gpus}" if gpus else view.host_name
    at = Span(f" @ {plain(where)}", "dim")
    return [Span(plain(short_command(view.command)), "strong"), at] if view.command else []


def short_command(command: str) -> str:
    """Without the interpreter, which says little: "train.py --lr 1"."""
    words = command.split(" ")
    is_python = os.path.basename(words[0]).startswith("python") and len(words) > 1
    return " ".join(words[1:]) if is_python and not words[1].startswith("-") else command


def _sync(row: RunRow | None) -> Line:
    if row is None:
        return []
    if not row.files_sent:
        return [Span("sync ✓", "good"), Span(" nothing to send", "dim")]
    words = f" {files_words(row.files_sent)} {seconds(row.cycle.sync_s)}"
    return [Span("sync ✓", "good"), Span(words)]


def files_words(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _save_to_output(row: RunRow | None) -> Line:
    if row is None or not row.cycle.output_s or not row.is_from_save:
        return []
    return [Span(f"save→out {seconds(row.cycle.total_s)}", "strong")]


def cycle_line(view: View, width: int, shown: RunRow | None = None) -> Line:
    """The stages of the newest save's way to its first output, or of the run that is `shown`; and
    the session's percentiles."""
    row = shown or view.last_cycle
    if row is None:
        return [Span(" save → detect → sync → apply → start → output", "dim")]
    what = "save" if row.is_from_save else "start"
    whose = [Span(f"run {row.number}: ", "accent")] if shown is not None else []
    parts = [Part([*whose, Span(f"{what} →", "dim")])]
    stages = [stage for stage in stages_of(row.cycle) if stage.spent_s >= LEAST_SHOWN_S]
    for stage in stages:
        is_last = stage.name == "output"
        # What took the least goes first.
        rank = 0 if is_last else 2 + sum(other.spent_s > stage.spent_s for other in stages)
        spans = [Span(f"{stage.name} ", "dim"), Span(milliseconds(stage.spent_s))]
        parts.append(Part([*spans, Span("" if is_last else " →", "dim")], rank))
    if not row.cycle.output_s:
        parts.append(Part([Span("output …", "dim")]))
    total = Span(f"= {milliseconds(row.cycle.total_s)} ms", "strong")
    parts.append(Part([total], 1))
    if len(view.cycles_s) > 1:
        p50, p99 = milliseconds(view.p50_s), milliseconds(view.p99_s)
        words = f"p50 {p50} p99 {p99} of {len(view.cycles_s)}"
        parts.append(Part([Span(words, "dim")], len(stages) + 2))
    return [Span(" " * MARGIN), *fit(parts, width - 2 * MARGIN, gap=" ")]


def progress_line(
    progress: Progress, width: int, now_s: float, warmth: Warmth | None = None
) -> Line:
    """What takes the time now, with a bar where its end is known; empty: nothing does."""
    words, done, total, rate = _progress_words(progress, now_s, warmth)
    if not words:
        return []
    parts = [Part([Span(words, "accent")])]
    if total:
        parts.append(Part(_bar(done / total, min(24, max(width // 4, 8))), 1))
        parts.append(Part([Span(f"{size(done)} of {size(total)}")], 2))
    if rate:
        parts.append(Part([Span(f"{size(rate)}/s", "dim")], 3))
    return [Span(" " * MARGIN), *fit(parts, width - 2 * MARGIN)]


def _progress_words(
    progress: Progress, now_s: float, warmth: Warmth | None
) -> tuple[str, int, int, float]:
    """Words, bytes done, bytes in all (0: not known), bytes a second."""
    took_s = now_s - progress.upload_began_s
    match progress.step:
        case None:
            return "", 0, 0, 0.0
        case "connect":
            return "connecting …", 0, 0, 0.0
        case "install":
            phase = _INSTALL[progress.install_phase or "fetching"]
            is_sent = progress.install_phase == "sending"
            counts = (progress.sent_bytes, progress.total_bytes) if is_sent else (0, 0)
            return (f"installing the agent: {phase} …", *counts, 0.0)
        case "image":
            done, total = progress.image_bytes, progress.image_total_bytes
            return f"image: {progress.image_phase} …", done, total, 0.0
        case "scan":
            return f"scanning … {files_words(progress.scanned_files)}", 0, 0, 0.0
        case "upload":
            rate = progress.sent_bytes / took_s if took_s > 1 else 0.0
            words = f"uploading {progress.sent_files:,} of {files_words(progress.total_files)}"
            return words, progress.sent_bytes, progress.total_bytes, rate
        case "apply" if warmth is not None and is_fetching_ahead(warmth):
            files = f"{warmth.ahead_files:,} of {files_words(warmth.ahead_of_files)}"
            words = f"starting the container: prefetching {files}"
            return words, warmth.ahead_bytes, warmth.ahead_of_bytes, 0.0
        case "apply" if warmth is not None and warmth.container is ContainerState.STARTING:
            return f"starting the container … {now_s - progress.began_s:.0f} s", 0, 0, 0.0
        case "apply":
            return f"applying … {now_s - progress.began_s:.0f} s", 0, 0, 0.0


def _bar(share: float, width: int) -> Line:
    full = round(min(max(share, 0.0), 1.0) * width)
    return [Span("█" * full, "accent"), Span("░" * (width - full), "dim")]
