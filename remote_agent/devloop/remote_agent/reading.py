"""Small blobs for a client that asks for them: what fits one reply. Knows no protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devloop.cafs.errors import BlobCorrupt, BlobMissing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devloop.cafs.digest import Digest
    from devloop.cafs.store import BlobStore

__all__ = ["read_small"]

MOST_BYTES = 1 << 20  # of one blob
ENOUGH_BYTES = 2 << 20  # of one reply; with one more blob it still fits a message


def read_small(
    store: BlobStore, wanted: Sequence[Digest]
) -> tuple[list[tuple[Digest, bytes]], int]:
    """Those that are there and not too large, and how many of the wanted ones were looked at."""
    found: list[tuple[Digest, bytes]] = []
    size_bytes = 0
    for asked, digest in enumerate(wanted):
        if size_bytes > ENOUGH_BYTES:
            return found, asked
        try:
            if store.size_bytes(digest) <= MOST_BYTES:
                found.append((digest, store.get(digest)))
                size_bytes += len(found[-1][1])
        except (BlobMissing, BlobCorrupt):
            continue
    return found, len(wanted)
