"""Where the chunks of stored blobs are: answers which parts of a new blob an old one holds.

Owns the agent's memory of cuts, bounded in blobs and in chunks. Knows no upload and no network.
An index is a hint: whoever builds a blob from ranges has the store verify the whole.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from typing import TYPE_CHECKING

from devloop.cafs.chunk import MAX_CHUNKED_BYTES, Chunk, CopyRange, chunks_of
from devloop.cafs.digest import Hasher
from devloop.cafs.errors import BlobMissing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devloop.cafs.digest import Digest
    from devloop.cafs.store import BlobStore

__all__ = ["ChunkIndex"]

MAX_BLOBS = 8
MAX_CHUNKS = 500_000  # about 150 MB; the chunks of 160 GB
ABSENT = CopyRange(0, 0)


class _Cuts:
    """The chunks of one blob: in order, and by digest."""

    __slots__ = ("by_digest", "chunks")

    def __init__(self, chunks: list[Chunk]) -> None:
        self.chunks = chunks
        self.by_digest = {chunk.digest: CopyRange(*chunk[:2]) for chunk in chunks}

    def within(self, wanted: CopyRange) -> list[Chunk]:
        start = bisect_left(self.chunks, wanted.offset, key=_offset)
        stop = bisect_left(self.chunks, wanted.offset + wanted.size_bytes, key=_offset)
        return self.chunks[start:stop]


class ChunkIndex:
    """The cuts of the blobs that were asked for last. Safe to share between threads."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._cuts: OrderedDict[Digest, _Cuts] = OrderedDict()  # last used last
        self._lock = threading.Lock()

    def find(self, base: Digest, wanted: Sequence[Digest]) -> list[CopyRange] | None:
        """A range of `base` for each digest, size 0 for one that it does not hold.

        None when `base` is not in the store, or larger than chunking is meant for.
        The first call for a base reads all of it.
        """
        with self._lock:
            cuts = self._load(base)
        if cuts is None:
            return None
        return [cuts.by_digest.get(digest, ABSENT) for digest in wanted]

    def within(self, base: Digest, wanted: CopyRange) -> list[Chunk] | None:
        """The chunks of `base` that start in that range; None when its cuts are not at hand."""
        with self._lock:
            cuts = self._cuts.get(base)
        return cuts.within(wanted) if cuts is not None else None

    def learn(self, digest: Digest, chunks: list[Chunk]) -> None:
        """Takes over the cuts of a stored blob that somebody else found out."""
        with self._lock:
            self._keep(digest, _Cuts(chunks))

    def _load(self, base: Digest) -> _Cuts | None:
        if not self._store.has(base):
            self._cuts.pop(base, None)
            return None
        if (cuts := self._cuts.get(base)) is not None:
            self._cuts.move_to_end(base)
            return cuts
        try:
            chunks = self._cut(base)
        except BlobMissing:  # collected in the meantime
            return None
        return self._keep(base, _Cuts(chunks)) if chunks is not None else None

    def _cut(self, base: Digest) -> list[Chunk] | None:
        if self._store.size_bytes(base) > MAX_CHUNKED_BYTES:
            return None
        whole = Hasher()
        chunks = list(chunks_of(_BlobReader(self._store, base), whole))
        # Copies from a damaged blob would fail the upload that they were to speed up.
        return chunks if whole.digest() == base else None

    def _keep(self, digest: Digest, cuts: _Cuts) -> _Cuts:
        self._cuts[digest] = cuts
        self._cuts.move_to_end(digest)
        while len(self._cuts) > 1 and self._is_over():
            self._cuts.popitem(last=False)
        return cuts

    def _is_over(self) -> bool:
        chunks = sum(len(cuts.chunks) for cuts in self._cuts.values())
        return len(self._cuts) > MAX_BLOBS or chunks > MAX_CHUNKS


class _BlobReader:
    """A stored blob as a file that is read once, from its start."""

    def __init__(self, store: BlobStore, digest: Digest) -> None:
        self._store = store
        self._digest = digest
        self._offset = 0

    def read(self, n: int, /) -> bytes:
        data = self._store.read_range(self._digest, self._offset, n)
        self._offset += len(data)
        return data


def _offset(chunk: Chunk) -> int:
    return chunk.offset
