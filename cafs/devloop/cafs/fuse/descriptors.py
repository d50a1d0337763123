"""Open files of blobs, a bounded number of them: the least recently read one is closed first.

Refuses to know where a blob lies: who asks says how it is opened.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from devloop.cafs.digest import Digest

__all__ = ["Descriptors", "is_out_of_descriptors"]


class Descriptors:
    """For one thread. What is pinned is closed when the last user lets go of it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._open: OrderedDict[Digest, int] = OrderedDict()
        self._pins: dict[int, int] = {}  # by descriptor: how many use it now
        self._doomed: set[int] = set()  # pinned, and no longer in `_open`

    def __len__(self) -> int:
        return len(self._open)

    def get(self, digest: Digest) -> int | None:
        """A descriptor that stays open until the caller waits for something, or pins it."""
        fd = self._open.get(digest)
        if fd is not None:
            self._open.move_to_end(digest)
        return fd

    def open(self, digest: Digest, opener: Callable[[], int]) -> int:
        """As `get`; opened with `opener`. Raises what that raises, EMFILE when all are in use."""
        self.forget(digest)
        while len(self._open) >= self._capacity:
            self.shed()
        while True:
            try:
                fd = opener()
            except OSError as error:
                if not is_out_of_descriptors(error) or not self.shed():
                    raise
                continue
            self._open[digest] = fd
            return fd

    def shed(self) -> bool:
        """Closes the one that was not needed for longest. False when there is none."""
        if not self._open:
            return False
        _, fd = self._open.popitem(last=False)
        self._close(fd)
        return True

    def forget(self, digest: Digest) -> None:
        fd = self._open.pop(digest, None)
        if fd is not None:
            self._close(fd)

    def close(self) -> None:
        while self.shed():
            pass

    def pin(self, fd: int) -> None:
        self._pins[fd] = self._pins.get(fd, 0) + 1

    def unpin(self, fd: int) -> None:
        self._pins[fd] -= 1
        if not self._pins[fd]:
            del self._pins[fd]
            if fd in self._doomed:
                self._doomed.discard(fd)
                os.close(fd)

    def _close(self, fd: int) -> None:
        if fd in self._pins:
            self._doomed.add(fd)
        else:
            os.close(fd)


def is_out_of_descriptors(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
