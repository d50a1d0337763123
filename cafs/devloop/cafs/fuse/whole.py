"""When the last blob of a lazy image has come, its mark in the store says so: the next start needs
no file server.

Owns the looking. Whoever brings blobs counts: readers here, other servers, a pull. Refuses to know
where they come from.
"""

from __future__ import annotations

import contextlib
from threading import Lock
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError
from devloop.cafs.images import ImageStore

if TYPE_CHECKING:
    from devloop.cafs.digest import Digest
    from devloop.cafs.index import Index
    from devloop.cafs.tiers.landing import Landing

__all__ = ["Whole"]


class Whole:
    """For many threads."""

    def __init__(self, image: Digest, index: Index, landing: Landing) -> None:
        self._image = image
        self._landing = landing
        self._blobs = index.blobs()
        self._left = list(self._blobs.items())
        self._is_done = False
        self._lock = Lock()

    def look(self) -> None:
        """Blocks: for one look at a file as long as one is missing, for as long as the disk takes
        at the end. Raises nothing: without a mark the next start has a server, and that looks."""
        with self._lock:
            while self._left and self._is_here(*self._left[-1]):
                self._left.pop()
            if not self._left and not self._is_done:
                with contextlib.suppress(DevloopError, OSError):
                    self._finish()

    def _finish(self) -> None:
        """What was here at the first look may be gone: a damaged file is dropped."""
        self._left = [blob for blob in self._blobs.items() if not self._is_here(*blob)]
        if self._left:
            return
        self._is_done = True
        with ImageStore(self._landing.root) as store:
            # Names come by renames, which a loss of power must not undo once there is a mark.
            if not store.is_complete(self._image) and self._landing.sync_names():
                store.mark_complete(self._image)

    def _is_here(self, digest: Digest, size_bytes: int) -> bool:
        return self._landing.named_bytes(digest) == size_bytes
