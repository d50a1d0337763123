"""Fetches what a profile names, ahead of the program that will ask for it.

Owns the order and how much is under way at once. Readers come first by themselves: what they want
and nobody has asked for yet, they ask for.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from devloop.cafs.errors import DevloopError
from devloop.cafs.index import CHUNK_BYTES
from devloop.cafs.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .events import Events
    from .misses import Misses
    from .views import Content, Contents

__all__ = ["prefetch"]

# What they have under way is what a reader's request waits for on a shared link: enough for 10 ms
# of way at several Gbit/s, and no more.
_SMALL_TASKS = 2
_PIECES_TASKS = 3
_FIRST_BATCH_BYTES = 64 << 10  # the first files are those that somebody waits for already
_BATCH_BYTES = 1 << 20
_BATCH_BLOBS = 256
_TELL_PERIOD_S = 0.1


class _Pieces(NamedTuple):
    content: Content
    first: int
    chunks: int

    @property
    def size_bytes(self) -> int:
        end = min((self.first + self.chunks) * CHUNK_BYTES, self.content.size_bytes)
        return end - self.first * CHUNK_BYTES


class _Count:
    """What was gone through, of all; told as it grows. A file counts with its last piece."""

    def __init__(
        self, small: Sequence[list[Content]], pieces: Sequence[_Pieces], events: Events
    ) -> None:
        contents = [content for batch in small for content in batch]
        self._events = events
        self._left = Counter(c.digest for c in (*contents, *(p.content for p in pieces)))
        self._of_files = len(self._left)
        self._of_bytes = sum(c.size_bytes for c in contents) + sum(p.size_bytes for p in pieces)
        self._files = self._bytes = 0
        self._told_s = 0.0
        self._tell()

    def add(self, content: Content, size_bytes: int) -> None:
        self._bytes += size_bytes
        self._left[content.digest] -= 1
        self._files += not self._left[content.digest]
        now_s = trio.current_time()
        if now_s - self._told_s >= _TELL_PERIOD_S or self._files == self._of_files:
            self._told_s = now_s
            self._tell()

    def _tell(self) -> None:
        counts = {"files": self._files, "of_files": self._of_files}
        sizes = {"size_bytes": self._bytes, "of_bytes": self._of_bytes}
        self._events.tell("ahead", **counts, **sizes)


async def prefetch(path: str, contents: Contents, misses: Misses, events: Events) -> None:
    """The profile at `path`, then, once the start is over, whatever else large blobs hold; at once
    where `path` is empty. Raises nothing."""
    try:
        if path:
            profile = Profile.decode(await trio.Path(path).read_bytes())
            await _fetch(profile, contents, misses, events)
            await misses.quiet()
    except (DevloopError, OSError) as error:
        events.tell("tier", tier=Path(path).name, reason=str(error), digest=None)
    finally:
        misses.end_start()


async def _fetch(profile: Profile, contents: Contents, misses: Misses, events: Events) -> None:
    """Small files do not stand in a line with the pieces of large ones: of a library a program
    needs some at once, many later, and it goes on with small files meanwhile."""
    small, pieces = list(_batches(profile, contents)), list(_pieces(profile, contents))
    count, smalls, larges = _Count(small, pieces, events), iter(small), iter(pieces)
    async with trio.open_nursery() as nursery:
        for _ in range(_SMALL_TASKS):
            nursery.start_soon(_fetch_small, smalls, misses, count)
        for _ in range(_PIECES_TASKS):
            nursery.start_soon(_fetch_pieces, larges, misses, count)


async def _fetch_small(waiting: Iterator[list[Content]], misses: Misses, count: _Count) -> None:
    for batch in waiting:
        await misses.bring(batch)
        for content in batch:
            count.add(content, content.size_bytes)


async def _fetch_pieces(waiting: Iterator[_Pieces], misses: Misses, count: _Count) -> None:
    for pieces in waiting:
        try:
            await misses.bring_pieces(*pieces)
        except Exception:  # noqa: BLE001 (a tier may raise anything, and its readers go on)
            pass  # whoever reads it is told why
        count.add(pieces.content, pieces.size_bytes)


# Both in the order of the profile. What the image does not have (any more) is passed over.


def _pieces(profile: Profile, contents: Contents) -> Iterator[_Pieces]:
    for digest, first, chunks in profile.touches:
        content = contents.get(digest)
        if content is not None and content.chunks is not None:
            whole = -(-content.size_bytes // CHUNK_BYTES)
            yield _Pieces(content, min(first, whole - 1), chunks or whole)


def _batches(profile: Profile, contents: Contents) -> Iterator[list[Content]]:
    batch: list[Content] = []
    batch_bytes, limit_bytes = 0, _FIRST_BATCH_BYTES
    for digest, _, _ in profile.touches:
        content = contents.get(digest)
        if content is None or content.chunks is not None:
            continue
        batch.append(content)
        batch_bytes += content.size_bytes
        if batch_bytes >= limit_bytes or len(batch) >= _BATCH_BLOBS:
            yield batch
            batch, batch_bytes = [], 0
            limit_bytes = min(2 * limit_bytes, _BATCH_BYTES)
    if batch:
        yield batch
