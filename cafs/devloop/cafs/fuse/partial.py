"""A large blob of which some pieces are here: which ones are asked for next, and where they lie.

Owns the temporary file and the book-keeping. Refuses to know trio: `misses` moves the bytes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.digest import Hasher
from devloop.cafs.errors import BlobMismatch
from devloop.cafs.index import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devloop.cafs.digest import Digest
    from devloop.cafs.tiers import Tiers
    from devloop.cafs.tiers.landing import Landing

    from .views import Content

__all__ = ["Partial", "Span"]

_ABSENT, _ASKED, _HERE = 0, 1, 2
_SPAN_CHUNKS = 16  # in one request: 10 ms of way do not matter much beside 4 MiB
_SOON_CHUNKS = 4  # of what somebody waits for, or will soon: as much as the kernel reads at once
_HASH_BYTES = 4 << 20


class Span(NamedTuple):
    """Chunks of a blob: the first one, and how many."""

    first: int
    chunks: int


class Partial:
    """Book-keeping is for one thread; `fetch` and `finish` are for others."""

    def __init__(self, content: Content, chunks: Sequence[Digest], landing: Landing) -> None:
        """Raises StoreFull, OSError."""
        self.content = content
        self.temp = landing.create(content.digest, content.size_bytes)
        self._chunks = chunks
        self._landing = landing
        self._state = bytearray(len(chunks))
        self._left = len(chunks)
        self._cursor = 0
        self.tier = ""  # that gave the last piece

    @property
    def is_whole(self) -> bool:
        return not self._left

    def is_here(self, chunk: int) -> bool:
        return self._state[chunk] == _HERE

    def needed(self, offset: int, size_bytes: int) -> list[int]:
        """The chunks of that range that are not here; the rest is completed from there on."""
        first = offset // CHUNK_BYTES
        last = min((offset + size_bytes - 1) // CHUNK_BYTES, len(self._chunks) - 1)
        self._cursor = last
        return [chunk for chunk in range(first, last + 1) if self._state[chunk] != _HERE]

    def ask(self, chunk: int) -> Span | None:
        """From that chunk on, which somebody waits for; None when it was asked for already."""
        if self._state[chunk] != _ABSENT:
            return None
        return self._ask_from(chunk, min(chunk + _SOON_CHUNKS, len(self._chunks)))

    def ask_next(self) -> Span | None:
        """What nobody waits for yet, after the place that was read last."""
        first = self._state.find(_ABSENT, self._cursor)
        if first < 0:
            first = self._state.find(_ABSENT)
        if first < 0:
            return None
        return self._ask_from(first, len(self._chunks))

    def ask_within(self, first: int, chunks: int) -> Span | None:
        """The next few of those chunks that nobody has asked for."""
        end = min(first + chunks, len(self._chunks))
        found = self._state.find(_ABSENT, first, end)
        return self._ask_from(found, min(found + _SOON_CHUNKS, end)) if found >= 0 else None

    def _ask_from(self, first: int, end: int) -> Span:
        last = min(first + _SPAN_CHUNKS, end)
        count = next((n for n in range(first, last) if self._state[n] != _ABSENT), last) - first
        self._mark(Span(first, count), _ASKED)
        return Span(first, count)

    def arrived(self, span: Span) -> None:
        self._mark(span, _HERE)
        self._left -= span.chunks

    def failed(self, span: Span) -> None:
        self._mark(span, _ABSENT)

    def _mark(self, span: Span, state: int) -> None:
        self._state[span.first : span.first + span.chunks] = bytes([state]) * span.chunks

    def fetch(self, span: Span, tiers: Tiers) -> None:
        """Raises BlobUnavailable, StoreFull, OSError."""
        digest, whole_bytes, _ = self.content
        offset = span.first * CHUNK_BYTES
        size_bytes = min(span.chunks * CHUNK_BYTES, whole_bytes - offset)
        chunks = self._chunks[span.first : span.first + span.chunks]
        fetched = tiers.get_range(digest, offset, size_bytes, chunks)
        self._landing.write(self.temp, offset, fetched.data)
        self.tier = fetched.tier

    def finish(self) -> None:
        """Hashes all of it once more, since a chunk list may lie, and makes it a blob.

        Raises BlobMismatch, and then it is gone.
        """
        hasher = Hasher()
        fd = self._landing.open_temp(self.temp)
        try:
            while piece := os.read(fd, _HASH_BYTES):
                hasher.update(piece)
        finally:
            os.close(fd)
        if hasher.digest() != self.content.digest:
            self._landing.discard(self.temp)
            raise BlobMismatch(self.content.digest, "hash to something else")
        self._landing.seal(self.temp)
        self._landing.adopt(self.content.digest, self.temp)
