"""What no honest image needs. Each limit is of a whole image unless it says otherwise."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from .errors import ImageRefused
from .names import shown

if TYPE_CHECKING:
    from .tar import Member

__all__ = ["Limits"]

MAX_ENTRIES = 2_000_000  # of all layers; half a kilobyte of memory each
MAX_FILE_BYTES = 256 << 30  # of one file
MAX_HOLE_BYTES = 64 << 30  # of all sparse files: holes take no space, and are hashed all the same
MAX_TAR_BYTES = 1 << 40  # of all layers, inflated
# deflate cannot do more than 1,032 times, zstd can. Small layers of zeros are nobody's bomb.
MAX_EXPANSION = 1_100
EXPANSION_FROM_BYTES = 1 << 30


class Limits:
    """Counts, from any thread. Raises ImageRefused."""

    def __init__(self) -> None:
        self._entries = self._hole_bytes = self._tar_bytes = 0
        self._lock = Lock()

    def entry(self) -> None:
        self._entries += 1  # a lost count of two threads at once does not matter
        if self._entries > MAX_ENTRIES:
            raise ImageRefused(f"the image has more than {MAX_ENTRIES:,} entries")

    def file(self, member: Member) -> None:
        size_bytes = member.size_bytes
        if size_bytes > MAX_FILE_BYTES:
            size = f"{size_bytes:,} bytes, more than {MAX_FILE_BYTES:,}"
            raise ImageRefused(f"the image has a file of {size}: {shown(member.name)}")
        if member.extents is None:
            return
        with self._lock:
            self._hole_bytes += size_bytes - sum(extent.size_bytes for extent in member.extents)
        if self._hole_bytes > MAX_HOLE_BYTES:
            raise ImageRefused(f"the image has holes of more than {MAX_HOLE_BYTES:,} bytes")

    def tar(self, size_bytes: int, layer_bytes: int, raw_bytes: int) -> None:
        """`size_bytes` more, of a layer that has `layer_bytes` inflated from `raw_bytes` so far."""
        with self._lock:
            self._tar_bytes += size_bytes
        if self._tar_bytes > MAX_TAR_BYTES:
            raise ImageRefused(f"the image inflates to more than {MAX_TAR_BYTES:,} bytes")
        if layer_bytes > max(EXPANSION_FROM_BYTES, raw_bytes * MAX_EXPANSION):
            raise ImageRefused(
                f"a layer inflates to more than {MAX_EXPANSION:,} times its {raw_bytes:,} bytes"
            )
