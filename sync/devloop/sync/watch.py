"""Hints that something in the project may have changed, and where.

Owns the life of an event source: opening, replacing, and doing without one. A hint is never the
truth: whoever gets one looks for himself. What a hint names may have changed back, and what no
hint names is found by the slow full scan.

    a system without watches left   a full scan every second or so, after one notice
    a source that failed            another one, and a full scan for what fell between
    a root that went away           a full scan (which says so), then one more when it is back
    nothing happening               a full scan a minute; less often where a scan costs more, so
                                    that it stays below SLOW_SHARE of one core
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from . import inotify
from .debounce import Debounce, DirsChanged, Hint, ScanAll, WatchLimited
from .eventsource import WatchesExhausted
from .ignore import find_repository
from .notify import NotifySource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from .eventsource import EventSource, Inbox, Watched

    OpenSource = Callable[[Path, Watched, Inbox], EventSource]

__all__ = ["DirsChanged", "Hint", "ScanAll", "WatchLimited", "open_source", "watch"]

SLOW_SCAN_S = 60.0
SLOW_SHARE = 0.003
POLL_S = 1.0
POLL_MAX_S = 4.0
POLL_SHARE = 0.1
REOPEN_S = 60.0
TICK_S = 1.0
RETRY_S = 0.25
RETRY_MAX_S = 2.0


def open_source(root: Path, watched: Watched, inbox: Inbox) -> EventSource:
    """The best source that this system has."""
    if inotify.available():
        return inotify.InotifySource(root, watched, inbox)
    return NotifySource(root, watched, inbox)


async def watch(
    root: Path,
    watched: Watched,
    *,
    quiet_s: float = 0.005,
    open_source: OpenSource = open_source,
) -> AsyncGenerator[Hint]:
    """Hints for ever. `watched` is the Scanner, which has scanned before.

    The first hint is a ScanAll, for what changed since that scan. Closing the iterator
    (`contextlib.aclosing`) stops the watching.
    """
    retry_s = RETRY_S
    noticed = False
    while True:
        inbox = _Inbox(quiet_s)
        try:
            source = open_source(root, watched, inbox)
        except WatchesExhausted as error:
            if not noticed:
                yield WatchLimited(str(error), error.hint)
            noticed = True
            hints = _polled(watched)
        except OSError:
            hints = _gone(root)
        else:
            noticed = False
            hints = _followed(root, watched, inbox, source)
        began = time.monotonic()
        async with aclosing(hints):
            async for hint in hints:
                yield hint
        if time.monotonic() - began > RETRY_MAX_S:
            retry_s = RETRY_S
        elif not isinstance(inbox.failure, WatchesExhausted):
            await asyncio.sleep(retry_s)
            retry_s = min(RETRY_MAX_S, retry_s * 2)


class _Inbox:
    """What a source saw, on its way through the debounce. Implements Inbox."""

    def __init__(self, quiet_s: float) -> None:
        self.debounce = Debounce(quiet_s=quiet_s)
        self.arrived = asyncio.Event()
        self.rules = False
        self.closed = False
        self.failure: Exception | None = None

    def touched(self, directory: bytes) -> None:
        self.debounce.touched(time.monotonic(), directory)
        self.arrived.set()

    def unsettled(self, path: bytes) -> None:
        self.debounce.unsettled(path)

    def settled(self, path: bytes) -> None:
        self.debounce.settled(path)
        self.arrived.set()

    def saved(self, path: bytes) -> None:
        self.debounce.saved(path)
        self.arrived.set()

    def rules_changed(self) -> None:
        self.rules = True

    def lost(self, reason: str) -> None:
        self.debounce.lost(time.monotonic(), reason)
        self.arrived.set()

    def failed(self, reason: Exception | None) -> None:
        self.closed, self.failure = True, reason
        self.arrived.set()


async def _followed(
    root: Path, watched: Watched, inbox: _Inbox, source: EventSource
) -> AsyncGenerator[Hint]:
    """The hints of one source, until it fails or the root is another one; closes it."""
    inbox.lost("watching begins")
    try:
        async with aclosing(_hints_of(root, watched, inbox, source)) as hints:
            async for hint in hints:
                yield hint
    finally:
        await source.close()


async def _hints_of(
    root: Path, watched: Watched, inbox: _Inbox, source: EventSource
) -> AsyncGenerator[Hint]:
    ident = _ident(root)
    lock = _lock_path(root)
    slow_at = time.monotonic() + _slow_s(watched)
    while not inbox.closed:
        now = time.monotonic()
        if now >= slow_at:
            inbox.lost("the regular look at everything")
            slow_at = now + _slow_s(watched)
        hint = inbox.debounce.due(now, _lock_ident(lock)) if inbox.debounce.pending else None
        if hint is None:
            await _wait(inbox, now, lock)
            if not inbox.debounce.pending and _ident(root) != ident:
                return
            continue
        rules, inbox.rules = inbox.rules, False
        yield hint
        if rules or isinstance(hint, ScanAll):
            try:
                source.follow()
            except WatchesExhausted as error:
                inbox.failed(error)
        if isinstance(hint, ScanAll):
            slow_at = time.monotonic() + _slow_s(watched)


async def _wait(inbox: _Inbox, now: float, lock: str) -> None:
    """Until something arrives, or what is pending is due."""
    debounce = inbox.debounce
    delay_s = debounce.wait_s(now, _lock_ident(lock)) if debounce.pending else TICK_S
    inbox.arrived.clear()
    with suppress(TimeoutError):
        async with asyncio.timeout(delay_s):
            await inbox.arrived.wait()


async def _polled(watched: Watched) -> AsyncGenerator[Hint]:
    """Scans instead of events, until it is time to ask for watches again."""
    until = time.monotonic() + REOPEN_S
    while time.monotonic() < until:
        yield ScanAll("no watches left: looking at everything")
        await asyncio.sleep(min(POLL_MAX_S, max(POLL_S, watched.full_scan_s / POLL_SHARE)))


async def _gone(root: Path) -> AsyncGenerator[Hint]:
    """Ends when the root is there again."""
    yield ScanAll("the project folder is gone")
    while _ident(root) is None:  # noqa: ASYNC110 — nothing tells of a mount but a look
        await asyncio.sleep(TICK_S / 2)


def _slow_s(watched: Watched) -> float:
    return max(SLOW_SCAN_S, watched.full_scan_s / SLOW_SHARE)


def _ident(root: Path) -> tuple[int, int] | None:
    try:
        found = root.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _lock_path(root: Path) -> str:
    repository = find_repository(root)
    return str(repository.git_dir / "index.lock") if repository is not None else ""


def _lock_ident(lock: str) -> tuple[int, int] | None:
    if not lock:
        return None
    try:
        found = os.lstat(lock)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
