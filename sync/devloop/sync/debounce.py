"""When to act on what the watcher saw: pure, with the time handed in.

Owns the waiting: a save acts at once, a stream of changes waits for a pause, and nothing waits
for ever. Refuses to know where events come from and what a clock is.

    one save            acts `quiet_s` after its last event; SAVED_SHARE of that when the source
                        says that the save is over
    a stream            the pause that is waited for grows with its length, up to MAX_QUIET_S
    half a save         a file that vanished, or is open for writing, gets UNSETTLED_S to be
                        finished: many editors move the old file away before the new one is there
    an endless stream   acts every CAP_S
    git at work         nothing is said while its index is locked, but a lock that is left over
                        stops holding after LOCK_CAP_S
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Debounce", "DirsChanged", "Hint", "ScanAll", "WatchLimited"]

MAX_QUIET_S = 0.1
SAVED_SHARE = 0.2
UNSETTLED_S = 0.05
CAP_S = 1.0
LOCK_CAP_S = 10.0
LOCK_POLL_S = 0.02
MAX_DIRS = 4096

_GROWTH = 0.25  # of the stream's length so far
_STREAM_ENDS_S = 0.015  # without an event: sooner than a person, or a run, is done with a save


@dataclass(frozen=True, slots=True)
class DirsChanged:
    """Something in these directories may have changed."""

    dirs: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class ScanAll:
    """Anything may have changed."""

    reason: str


@dataclass(frozen=True, slots=True)
class WatchLimited:
    """The system hands out no more watches: from here on the project is scanned every so often."""

    reason: str
    hint: str


Hint: TypeAlias = DirsChanged | ScanAll | WatchLimited


class Debounce:
    """Collects what was touched, and says when to look."""

    def __init__(self, *, quiet_s: float = 0.005) -> None:
        self._quiet_s = quiet_s
        self._dirs: set[bytes] = set()
        self._unsettled: set[bytes] = set()
        self._lost: str | None = None
        self._first = 0.0  # of what is pending
        self._last = 0.0
        self._stream_began = 0.0
        self._saves = 0  # of this stream
        self._ends_saved = False  # the stream's last event ended a save
        self._lock: Hashable | None = None
        self._lock_seen = 0.0

    @property
    def pending(self) -> bool:
        return bool(self._dirs) or self._lost is not None

    def touched(self, now: float, directory: bytes) -> None:
        """Something in `directory` changed."""
        self._note(now)
        self._dirs.add(directory)
        if len(self._dirs) > MAX_DIRS:
            self._dirs = {b""}
            self._lost = self._lost or "very many changes"

    def lost(self, now: float, reason: str) -> None:
        """Events were lost, or may have been."""
        self._note(now)
        self._lost = self._lost or reason

    def unsettled(self, path: bytes) -> None:
        """The file at `path` vanished or is being written: more is about to happen to it."""
        if len(self._unsettled) < MAX_DIRS:
            self._unsettled.add(path)

    def settled(self, path: bytes) -> None:
        self._unsettled.discard(path)

    def saved(self, path: bytes) -> None:
        """A file that was known is whole again, right after it was `touched`.

        Only a stream's first save acts sooner: where a second one follows, more may.
        """
        self.settled(path)
        self._saves += 1
        self._ends_saved = True

    def due(self, now: float, lock: Hashable | None = None) -> Hint | None:
        """What to look at now, or None. `lock` identifies git's index lock, while there is one."""
        if not self.pending or self.wait_s(now, lock) > 0:
            return None
        hint = ScanAll(self._lost) if self._lost is not None else DirsChanged(frozenset(self._dirs))
        self._dirs, self._unsettled, self._lost = set(), set(), None
        return hint

    def wait_s(self, now: float, lock: Hashable | None = None) -> float:
        """How long until `due` may say something, if nothing else happens; meant while pending."""
        if self._held(now, lock):
            return LOCK_POLL_S
        at = min(self._last + self._pause_s(), self._first + CAP_S)
        return max(0.0, at - now)

    def _note(self, now: float) -> None:
        if now - self._last > max(_STREAM_ENDS_S, self._pause_s()):
            self._stream_began, self._saves = now, 0
        if not self.pending:
            self._first = now
        self._last = now
        self._ends_saved = False

    def _pause_s(self) -> float:
        if self._ends_saved and self._saves == 1 and not self._unsettled:
            return self._quiet_s * SAVED_SHARE
        grown = min(MAX_QUIET_S, _GROWTH * (self._last - self._stream_began))
        return max(self._quiet_s, grown, UNSETTLED_S if self._unsettled else 0.0)

    def _held(self, now: float, lock: Hashable | None) -> bool:
        if lock != self._lock:
            self._lock, self._lock_seen = lock, now
        return lock is not None and now - self._lock_seen < LOCK_CAP_S
