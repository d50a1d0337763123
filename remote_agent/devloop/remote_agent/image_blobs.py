"""Brings what an index lacks here from tiers, until its image is whole.

Owns the order and how much is under way at once. Refuses to know what an image is called.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Lock
from typing import TYPE_CHECKING

from devloop.cafs.tiers.landing import Landing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from devloop.cafs.digest import Digest
    from devloop.cafs.images import ImageStore
    from devloop.cafs.tiers import Tiers

    Batch = list[tuple[Digest, int]]

__all__ = ["bring_blobs"]

_AT_ONCE = 4
_SMALL_BYTES = 1 << 20
_BATCH_BYTES = 8 << 20
_BATCH_BLOBS = 512
_SETTLE_BYTES = 64 << 20


def bring_blobs(
    store: ImageStore, image: Digest, tiers: Tiers, tell: Callable[[int, int], None]
) -> None:
    """`tell` hears bytes, done and in all, from several threads; what it raises ends the work.

    Raises BlobUnavailable, StoreFull, SyncFailed, OSError: what has come by then stays.
    """
    missing = store.missing(store.index(image))
    with contextlib.closing(Landing(store.root)) as landing:
        _bring_all(_Bringing(landing, tiers, sum(missing.values()), tell), missing)
        landing.settle()
        # Names come by renames, which a loss of power must not undo once there is a mark.
        landing.sync_names()
        store.mark_complete(image)


def _bring_all(bringing: _Bringing, missing: Mapping[Digest, int]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        work = [threads.submit(bringing.bring, batch) for batch in _batches(missing)]
        try:
            for each in as_completed(work):
                each.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _batches(missing: Mapping[Digest, int]) -> Iterator[Batch]:
    """A large blob is one by itself."""
    batch: Batch = []
    batch_bytes = 0
    for digest, size_bytes in missing.items():
        if size_bytes > _SMALL_BYTES:
            yield [(digest, size_bytes)]
            continue
        if batch and (len(batch) == _BATCH_BLOBS or batch_bytes + size_bytes > _BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append((digest, size_bytes))
        batch_bytes += size_bytes
    if batch:
        yield batch


class _Bringing:
    """For many threads."""

    def __init__(
        self, landing: Landing, tiers: Tiers, total_bytes: int, tell: Callable[[int, int], None]
    ) -> None:
        self._landing = landing
        self._tiers = tiers
        self._total_bytes = total_bytes
        self._done_bytes = self._unsettled_bytes = 0
        self._tell = tell
        self._lock = Lock()  # of the numbers

    def bring(self, batch: Batch) -> None:
        if batch[0][1] > _SMALL_BYTES:
            self._bring_large(*batch[0])
        else:
            for digest, data in self._tiers.get_many(batch):
                self._landing.put(digest, data)
                self._count(len(data))
        self._settle(sum(size_bytes for _, size_bytes in batch))

    def _bring_large(self, digest: Digest, size_bytes: int) -> None:
        drafts: list[_Draft] = []

        def begin() -> Callable[[bytes], object]:
            if drafts:  # the last tier did not give it to the end
                self._count(-drafts[-1].done_bytes)
            drafts.append(_Draft(self._landing, digest, size_bytes, self._count))
            return drafts[-1].write

        try:
            self._tiers.copy(digest, size_bytes, begin)
            drafts.pop().adopt()
        finally:
            for draft in drafts:
                draft.discard()

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self._done_bytes += size_bytes
            done_bytes = self._done_bytes
        self._tell(done_bytes, self._total_bytes)

    def _settle(self, size_bytes: int) -> None:
        """What has come is kept even if the rest never comes."""
        with self._lock:
            self._unsettled_bytes += size_bytes
            if self._unsettled_bytes < _SETTLE_BYTES:
                return
            self._unsettled_bytes = 0
        self._landing.settle()


class _Draft:
    """A large blob on its way in, from one tier."""

    def __init__(
        self,
        landing: Landing,
        digest: Digest,
        size_bytes: int,
        count: Callable[[int], None],
    ) -> None:
        self._landing = landing
        self._digest = digest
        self._count = count
        self._temp = landing.create(digest, size_bytes)
        self.done_bytes = 0

    def write(self, piece: bytes) -> None:
        self._landing.write(self._temp, self.done_bytes, piece)
        self.done_bytes += len(piece)
        self._count(len(piece))

    def adopt(self) -> None:
        """All of it is here, and verified."""
        self._landing.seal(self._temp)
        self._landing.adopt(self._digest, self._temp)

    def discard(self) -> None:
        self._landing.discard(self._temp)
