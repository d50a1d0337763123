"""Fetches what a profile names, ahead of the program that will ask for it.

Owns the order and how much is under way at once. Readers come first by themselves: what they want
and nobody has asked for yet, they ask for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from devloop.cafs.errors import DevloopError
from devloop.cafs.index import CHUNK_BYTES
from devloop.cafs.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .events import Events
    from .misses import Misses
    from .views import Content, Contents

__all__ = ["prefetch"]

_TASKS = 8
_BATCH_BYTES = 2 << 20
_BATCH_BLOBS = 256


class _Pieces(NamedTuple):
    content: Content
    first: int
    chunks: int


_Work = list["Content"] | _Pieces


async def prefetch(path: str, contents: Contents, misses: Misses, events: Events) -> None:
    """The profile at `path`, then, once the start is over, whatever else large blobs hold; at once
    where `path` is empty. Raises nothing."""
    try:
        if path:
            profile = Profile.decode(await trio.Path(path).read_bytes())
            await _fetch(_portions(profile, contents), misses)
            await misses.quiet()
    except (DevloopError, OSError) as error:
        events.tell("tier", tier=Path(path).name, reason=str(error), digest=None)
    finally:
        misses.complete_from_now()


async def _fetch(waiting: Iterator[_Work], misses: Misses) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(_TASKS):
            nursery.start_soon(_fetch_some, waiting, misses)


async def _fetch_some(waiting: Iterator[_Work], misses: Misses) -> None:
    for portion in waiting:
        if not isinstance(portion, _Pieces):
            await misses.bring(portion)
            continue
        try:
            await misses.bring_pieces(*portion)
        except Exception:  # noqa: BLE001 (a tier may raise anything, and its readers go on)
            pass  # whoever reads it is told why


def _portions(profile: Profile, contents: Contents) -> Iterator[_Work]:
    """In the order of the profile. What the image does not have (any more) is passed over."""
    batch: list[Content] = []
    batch_bytes = 0
    for digest, first, chunks in profile.touches:
        content = contents.get(digest)
        if content is None:
            continue
        if content.chunks is not None:
            whole = -(-content.size_bytes // CHUNK_BYTES)
            yield _Pieces(content, min(first, whole - 1), chunks or whole)
            continue
        batch.append(content)
        batch_bytes += content.size_bytes
        if batch_bytes >= _BATCH_BYTES or len(batch) >= _BATCH_BLOBS:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch
