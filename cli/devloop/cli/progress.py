"""What a session does, told on stderr once it takes longer than a second.

A line that is drawn again on a terminal, and a plain one every ten seconds elsewhere. Decides
neither what a session does nor how a line is drawn.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from .common import say
from .statusline import status_line
from .words import size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from devloop.sync.progress import Progress

__all__ = ["describe_progress", "shown_progress"]

SHOW_AFTER_S = 1.0
DRAW_PERIOD_S = 0.1
TELL_PERIOD_S = 10.0
RATE_AFTER_S = 1.0


@contextlib.asynccontextmanager
async def shown_progress(progress: Progress) -> AsyncIterator[None]:
    """Shows it for as long as the block runs."""
    showing = asyncio.create_task(_show(progress))
    try:
        yield
    finally:
        showing.cancel()
        status_line.clear()


async def _show(progress: Progress) -> None:
    while True:
        await progress.wait_until_busy()
        await asyncio.sleep(progress.began_s + SHOW_AFTER_S - time.monotonic())
        if progress.step and time.monotonic() - progress.began_s >= SHOW_AFTER_S:
            await (_draw(progress) if status_line.can_draw else _tell(progress))


async def _draw(progress: Progress) -> None:
    while progress.step:
        status_line.draw(f"devloop: {describe_progress(progress, time.monotonic())}")
        await asyncio.sleep(DRAW_PERIOD_S)
    status_line.clear()


async def _tell(progress: Progress) -> None:
    told_s = -TELL_PERIOD_S
    while progress.step:
        now = time.monotonic()
        if now - told_s >= TELL_PERIOD_S and _is_worth_a_line(progress, now):
            say(describe_progress(progress, now))
            told_s = now
        await asyncio.sleep(DRAW_PERIOD_S)


def _is_worth_a_line(progress: Progress, now_s: float) -> bool:
    """A line stays in the log: a slow start of the agent alone is not worth one."""
    if progress.step == "install":
        return True
    if progress.step == "upload":
        return now_s - progress.upload_began_s >= SHOW_AFTER_S
    return now_s - progress.began_s >= TELL_PERIOD_S


def describe_progress(progress: Progress, now_s: float) -> str:
    """ "uploading 412 of 10,000 files, 120 MB of 1 GB, 85 MB/s". `now_s` is monotonic time."""
    match progress.step:
        case "connect":
            return "connecting…"
        case "install":
            return f"installing the agent on the box: {_describe_install(progress)}"
        case "image":
            return f"image: {_describe_image(progress)}"
        case "scan":
            return f"scanning… {_files(progress.scanned_files)}"
        case "upload":
            return _describe_upload(progress, now_s - progress.upload_began_s)
        case _:
            return f"applying… {now_s - progress.began_s:.0f} s"


def _describe_install(progress: Progress) -> str:
    match progress.install_phase:
        case "python":
            return "Python, by uv"
        case "sending":
            return f"sending {size(progress.sent_bytes)} of {size(progress.total_bytes)}"
        case "unpacking":
            return "unpacking"
        case _:
            return "fetching what it needs"


def _describe_image(progress: Progress) -> str:
    if progress.image_phase == "mounting":
        return "writing its metadata"
    if not progress.image_total_bytes:
        return f"{progress.image_phase}…"
    done, total = size(progress.image_bytes), size(progress.image_total_bytes)
    return f"{progress.image_phase} {done} of {total}"


def _describe_upload(progress: Progress, took_s: float) -> str:
    """With a rate once there is one: the first bytes only fill buffers."""
    files = _files(progress.total_files)
    if progress.total_files > 1:
        files = f"{progress.sent_files:,} of {files}"
    words = f"uploading {files}, {size(progress.sent_bytes)} of {size(progress.total_bytes)}"
    if took_s < RATE_AFTER_S:
        return words
    return f"{words}, {size(int(progress.sent_bytes / took_s))}/s"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
