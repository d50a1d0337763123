"""Which blobs may go: reachability from trees, and collection down to a size limit.

Knows blobs and trees. Refuses to know which trees are still wanted: the caller names the roots.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from .errors import BlobCorrupt, BlobMissing
from .packfile import RECORD_BYTES
from .store import SMALL_BYTES
from .tree import Dir, File, TreeInvalid, decode_node

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from .digest import Digest
    from .store import BlobStore, DiskStore, Stored

__all__ = ["Collected", "collect", "disk_bytes", "expendable", "reachable"]

_BLOCK_BYTES = 4096
_WRITER_S = 3600.0


class Collected(NamedTuple):
    """What a collection did; sizes are what the disk spends."""

    removed_blobs: int
    removed_bytes: int
    kept_bytes: int


def reachable(store: BlobStore, roots: Iterable[Digest]) -> set[Digest]:
    """The nodes and file blobs of these trees.

    A node that is missing, corrupt or no node stands for itself only: its tree has to be sent
    again anyway, and one broken tree must not stop all collection.
    """
    seen: set[Digest] = set()
    waiting = list(roots)
    while waiting:
        digest = waiting.pop()
        if digest not in seen:
            seen.add(digest)
            files, directories = _named_by(store, digest)
            seen.update(files)
            waiting += directories
    return seen


def _named_by(store: BlobStore, digest: Digest) -> tuple[list[Digest], list[Digest]]:
    try:
        entries = decode_node(store.get(digest)).values()
    except (BlobMissing, BlobCorrupt, TreeInvalid):
        return [], []
    files = [entry.digest for entry in entries if isinstance(entry, File)]
    return files, [entry.digest for entry in entries if isinstance(entry, Dir)]


def disk_bytes(size_bytes: int) -> int:
    """What a blob of that size takes on a disk: a record in a pack; or a file of whole blocks,
    and one for its inode."""
    if size_bytes <= SMALL_BYTES:
        return size_bytes + RECORD_BYTES
    return (-(-size_bytes // _BLOCK_BYTES) + 1) * _BLOCK_BYTES


def expendable(
    stored: Iterable[Stored], live: Container[Digest], limit_bytes: int, newest_ns: int
) -> Iterator[Stored]:
    """The blobs to delete, oldest first, so that all take at most `limit_bytes`; fewer when the
    rest is live or was put after `newest_ns`. One that a workspace shares takes nothing."""
    blobs = sorted((b for b in stored if not b.is_shared), key=lambda blob: blob.put_ns)
    excess_bytes = sum(disk_bytes(blob.size_bytes) for blob in blobs) - limit_bytes
    for blob in blobs:
        if excess_bytes <= 0 or blob.put_ns > newest_ns:
            return
        if blob.digest not in live:
            excess_bytes -= disk_bytes(blob.size_bytes)
            yield blob


def collect(
    store: DiskStore, live: Container[Digest], limit_bytes: int, *, grace_s: float = 3600
) -> Collected:
    """Deletes blobs that are not live until the store takes at most `limit_bytes`, and a third
    more where deleted small ones lie between others.

    `grace_s` protects what an upload has stored and no tree names yet. Temporary files are always
    given an hour: their writers could not go on without them.
    """
    store.remove_temporaries(max(grace_s, _WRITER_S))
    newest_ns = time.time_ns() - int(grace_s * 1e9)
    stored = [blob for blob in store.stored() if not blob.is_shared]
    removed = [
        blob
        for blob in expendable(stored, live, limit_bytes, newest_ns)
        if store.delete_unless_newer(blob.digest, newest_ns)
    ]
    store.give_back_space()
    removed_bytes = sum(disk_bytes(blob.size_bytes) for blob in removed)
    total_bytes = sum(disk_bytes(blob.size_bytes) for blob in stored)
    return Collected(len(removed), removed_bytes, total_bytes - removed_bytes)
