"""What a session's events say in the log, as lines of ours. Knows neither widgets nor the state."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from devloop.sync.events import (
    Notice,
    Paused,
    Pulled,
    Reconfigured,
    RunLost,
    RunStarted,
    Skipped,
    Waiting,
)
from devloop.sync.model import LogStream

from .words import plain, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devloop.sync.events import SessionEvent
    from devloop.sync.model import LogRecord

    from .log.model import NoteStyle

__all__ = ["Said", "note_of", "said_of"]

PROBLEMS_TOLD = 5


class Said(NamedTuple):
    text: str
    style: NoteStyle = "info"
    hint: str = ""


def said_of(event: SessionEvent) -> Iterator[Said]:
    match event:
        case RunStarted():
            for aside in event.saved_aside:
                path, kept = os.fsdecode(aside.path), os.fsdecode(aside.kept_at)
                yield Said(f"{path} had changed on the box; that version is kept at {kept}")
        case Notice(text, hint) | Reconfigured(text, hint):
            yield Said(text, hint=hint)
        case RunLost(number):
            yield Said(
                f"run {number} was lost with its agent", "warning", "r, or a save, runs again"
            )
        case Waiting(runs):
            numbers = ", ".join(map(str, runs))
            yield Said(f"run {numbers} uses another version of these files: waiting")
        case Skipped(problems):
            for problem in problems[:PROBLEMS_TOLD]:
                yield Said(f"skipped {problem.path}: {problem.reason}", "warning")
            if len(problems) > PROBLEMS_TOLD:
                yield Said(f"skipped {len(problems) - PROBLEMS_TOLD:,} more paths", "warning")
        case Pulled(files, size_bytes, kept):
            if files:
                yield Said(f"pulled {files} outputs, {size(size_bytes)}", "dim")
            for path in map(os.fsdecode, kept):
                yield Said(f"kept {path}: it was there before, and differs")
        case Paused(paused):
            yield Said("paused: saves are noted, nothing runs" if paused else "running on save")
        case _:
            return


def note_of(record: LogRecord) -> Said | None:
    """Of a record that no program wrote; None: one did."""
    match record.stream:
        case LogStream.DEVLOOP:
            return Said(plain(record.data.decode(errors="replace").rstrip("\n")))
        case LogStream.GAP:
            words = f"{record.dropped_bytes:,} bytes of output are missing here"
            return Said(f"{words}: the log was at its size limit", "warning")
        case _:
            return None
