"""A directory's blocks: which entries go into which, and their bytes. See `format`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .format import BLOCK_BYTES, DIRENT

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Shape", "encoded", "shape_of"]

_ENTRY_BYTES = DIRENT.size


class Shape(NamedTuple):
    """What of a directory is known before any inode has its place."""

    starts: tuple[int, ...]  # the first entry of each block
    size_bytes: int


def shape_of(names: Sequence[bytes]) -> Shape:
    """Of sorted names, among them `.` and `..`."""
    starts = [0]
    used = 0
    for number, name in enumerate(names):
        need = _ENTRY_BYTES + len(name)
        if used + need > BLOCK_BYTES:
            starts.append(number)
            used = 0
        used += need
    return Shape(tuple(starts), (len(starts) - 1) * BLOCK_BYTES + used)


def encoded(shape: Shape, names: Sequence[bytes], entries: Sequence[tuple[int, int]]) -> bytes:
    """`entries` are the (nid, file type) of `names`. All blocks but the last are full ones."""
    ends = (*shape.starts[1:], len(names))
    return b"".join(
        _block(names[start:end], entries[start:end], is_last=end == len(names))
        for start, end in zip(shape.starts, ends, strict=True)
    )


def _block(names: Sequence[bytes], entries: Sequence[tuple[int, int]], *, is_last: bool) -> bytes:
    offset = _ENTRY_BYTES * len(names)
    parts = []
    for name, (nid, file_type) in zip(names, entries, strict=True):
        parts.append(DIRENT.pack(nid, offset, file_type))
        offset += len(name)
    parts += names
    if not is_last:
        parts.append(bytes(BLOCK_BYTES - offset))
    return b"".join(parts)
