"""File events from `watchfiles`, which knows each system's own way: FSEvents on a Mac.

Its events are coarse and it loses some without a word, mostly in directories that have just been
made. So whatever looks like more than a save or two is followed by a full scan when it is over,
and again a little later; a new directory is looked at twice.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

from .eventsource import WatchesExhausted
from .ignore import IGNORE_FILES

if TYPE_CHECKING:
    from pathlib import Path

    from .eventsource import Inbox, Watched

__all__ = ["NotifySource"]

_ADDED, _DELETED = 1, 3
_STEP_MS = 5  # watchfiles asks for events so often, and passes them on when a step brings no more
_BATCH_MS = 50
_TIMEOUT_MS = 1000
_MANY = 200  # events in a batch: more than a save
_ASLEEP_S = 3.0  # a wait that took this long: the process was stopped, and events may be gone
_LOOK_AGAIN_S = (0.5, 2.0)
_NEW_DIR_AGAIN_S = (0.05, 0.5)


class NotifySource:
    """Implements EventSource."""

    def __init__(self, root: Path, watched: Watched, inbox: Inbox) -> None:
        self._root = os.path.realpath(root)
        self._watched = watched
        self._inbox = inbox
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._timers: set[asyncio.TimerHandle] = set()
        self._notify = _opened(self._root)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="devloop-watch")
        self._running = self._loop.run_in_executor(self._pool, self._run)

    def follow(self) -> None:
        """Everything below the root is watched already."""

    async def close(self) -> None:
        self._stop.set()
        for timer in self._timers:
            timer.cancel()
        await self._running
        self._pool.shutdown()
        self._notify.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                batch = self._notify.watch(_BATCH_MS, _STEP_MS, _TIMEOUT_MS, self._stop)
            except WatchfilesRustInternalError as error:
                # It stays broken: a name that is not UTF-8 is enough.
                self._loop.call_soon_threadsafe(self._inbox.failed, error)
                return
            if time.monotonic() - began > _ASLEEP_S:
                self._loop.call_soon_threadsafe(self._inbox.lost, "devloop was stopped for a while")
            if isinstance(batch, set):
                self._loop.call_soon_threadsafe(self._take_all, batch)

    def _take_all(self, batch: set[tuple[int, str]]) -> None:
        if len(batch) > _MANY:
            self._inbox.lost("many changes")
            for delay_s in _LOOK_AGAIN_S:
                self._later(delay_s, None)
        present = {path for change, path in batch if change != _DELETED}
        for change, path in batch:
            self._take(change, path, path in present)

    def _take(self, change: int, full: str, present: bool) -> None:
        if full == self._root:
            return
        path = os.fsencode(full)[len(os.fsencode(self._root)) + 1 :]
        if not self._watched.concerns(path):
            return
        directory, _, name = path.rpartition(b"/")
        self._inbox.touched(directory)
        if change == _DELETED and not present and self._watched.holds(path):
            self._inbox.unsettled(path)
        if name in IGNORE_FILES:
            self._inbox.rules_changed()
        if change == _DELETED or os.path.islink(full) or not os.path.isdir(full):
            return
        self._inbox.touched(path)  # its mode is seen by who looks at it, not above it
        if change == _ADDED:
            for delay_s in _NEW_DIR_AGAIN_S:
                self._later(delay_s, path)

    def _later(self, delay_s: float, directory: bytes | None) -> None:
        """A second look; at everything when `directory` is None."""

        def look() -> None:
            self._timers.discard(timer)
            if directory is None:
                self._inbox.lost("a second look after many changes")
            else:
                self._inbox.touched(directory)

        timer = self._loop.call_later(delay_s, look)
        self._timers.add(timer)


def _opened(root: str) -> RustNotify:
    try:
        return RustNotify([root], False, False, 300, True, False)
    except PermissionError:
        # Something below is closed to us. Asked to bear that, watchfiles bears every other
        # failure too and says nothing of it, so it is asked only then.
        return RustNotify([root], False, False, 300, True, True)
    except OSError as error:
        if "limit reached" not in str(error):
            raise
        raise WatchesExhausted(
            "the system hands out no more file watches (fs.inotify.max_user_watches is used up)",
            hint="raise it: sudo sysctl fs.inotify.max_user_watches=524288",
        ) from error
