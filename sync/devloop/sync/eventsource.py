"""What every source of file events speaks: its two sides, and how it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from devloop.cafs.errors import DevloopError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EventSource", "Inbox", "Watched", "WatchesExhausted"]


class WatchesExhausted(DevloopError):
    """The system hands out no more watches."""


class Watched(Protocol):
    """What a watcher has to know of the project: a Scanner."""

    full_scan_s: float

    def concerns(self, path: bytes, is_dir: bool | None = None) -> bool: ...

    def holds(self, path: bytes) -> bool: ...

    def directories(self) -> Iterator[bytes]: ...


class Inbox(Protocol):
    """Where a source puts what it saw. To be called on the event loop's thread only."""

    def touched(self, directory: bytes) -> None: ...

    def unsettled(self, path: bytes) -> None: ...

    def settled(self, path: bytes) -> None: ...

    def saved(self, path: bytes) -> None:
        """A known file is whole again: nobody has it open for writing, or it came by a rename."""

    def rules_changed(self) -> None:
        """Directories that were ignored may count from the next scan on."""

    def lost(self, reason: str) -> None: ...

    def failed(self, reason: Exception | None) -> None:
        """The source is of no further use; None when the root went away."""


class EventSource(Protocol):
    """Puts what happens below a root into an inbox, from construction until `close`.

    Construction raises WatchesExhausted, or OSError when the root cannot be watched.
    """

    def follow(self) -> None:
        """Watches directories that count now and did not before. Raises WatchesExhausted."""

    async def close(self) -> None: ...
