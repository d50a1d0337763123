"""The stat cache on disk: which digest a file had when its stat looked like this.

Owns the file format and nothing of what a digest is used for. A cache is only ever a saving: one
that is missing, damaged or of another version is an empty one.

Format, version 1 (little-endian; n = number of files)
    "dlstat" 0x00 0x01 | n:u64 | names_len:u64
    size:i64[n] | mtime_ns:i64[n] | ctime_ns:i64[n] | inode:u64[n] | digest:32[n]
    names: paths relative to the root, joined by NUL
    BLAKE3 of everything before it, 32 bytes
Columns, so that loading is a handful of block copies: rows are never made into objects.

What may be in it: only files whose digest is certain. A file that was written again within the
clock's granule after it was hashed shows the same stat and other bytes (`racily clean`, in git's
words); the scanner leaves such a file out, and so it is hashed again.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.digest import DIGEST_BYTES, Digest, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["NOTHING_SAVED", "Row", "Saved", "StatCache"]

_MAGIC = b"dlstat\x00\x01"
_COUNTS = struct.Struct("<QQ")
_HEAD_BYTES = len(_MAGIC) + _COUNTS.size
_ROW_BYTES = 4 * 8 + DIGEST_BYTES


class Row(NamedTuple):
    path: bytes
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    digest: Digest


class Saved:
    """What a cache file said."""

    __slots__ = ("_ctimes", "_digests", "_inodes", "_mtimes", "_rows", "_sizes")

    def __init__(self, columns: tuple[array[int], ...], digests: bytes, names: bytes) -> None:
        self._sizes, self._mtimes, self._ctimes, self._inodes = columns
        self._digests = digests
        count = len(self._sizes)
        self._rows = dict(zip(names.split(b"\0"), range(count), strict=True)) if count else {}

    def __len__(self) -> int:
        return len(self._rows)

    def digest(
        self, path: bytes, size_bytes: int, mtime_ns: int, ctime_ns: int, inode: int
    ) -> Digest | None:
        """The digest of the file at `path`, if its stat is still the saved one."""
        row = self._rows.get(path)
        if (
            row is None
            or self._mtimes[row] != mtime_ns
            or self._ctimes[row] != ctime_ns
            or self._sizes[row] != size_bytes
            or self._inodes[row] != inode
        ):
            return None
        return self._digest_at(row)

    def last_digest(self, path: bytes) -> Digest | None:
        """What the file held, which need not be what it holds now."""
        row = self._rows.get(path)
        return self._digest_at(row) if row is not None else None

    def _digest_at(self, row: int) -> Digest:
        return Digest(self._digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES])


NOTHING_SAVED = Saved((array("q"), array("q"), array("q"), array("Q")), b"", b"")


class StatCache:
    """One project's cache file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Saved:
        """Never raises for what the file holds: a bad one counts as empty."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return NOTHING_SAVED
        try:
            return _decode(data)
        except ValueError:
            return NOTHING_SAVED

    def save(self, rows: Iterable[Row]) -> None:
        """Replaces the file in one step. Raises OSError when it cannot be written."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temp = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        try:
            # Not synced: after a power cut the checksum tells a torn file from a good one.
            temp.write_bytes(_encode(rows))
            temp.replace(self._path)
        finally:
            temp.unlink(missing_ok=True)


def _encode(rows: Iterable[Row]) -> bytes:
    names: list[bytes] = []
    columns = (array("q"), array("q"), array("q"), array("Q"))
    digests: list[Digest] = []
    for path, size_bytes, mtime_ns, ctime_ns, inode, digest in rows:
        names.append(path)
        for column, value in zip(columns, (size_bytes, mtime_ns, ctime_ns, inode), strict=True):
            column.append(value)
        digests.append(digest)
    joined = b"\0".join(names)
    counts = _COUNTS.pack(len(names), len(joined))
    parts = [_MAGIC, counts, *map(_little_endian, columns), *digests, joined]
    body = b"".join(parts)
    return body + digest_of(body)


def _decode(data: bytes) -> Saved:
    """Raises ValueError for anything that `_encode` did not write."""
    if not data.startswith(_MAGIC) or len(data) < _HEAD_BYTES + DIGEST_BYTES:
        raise ValueError("not a stat cache of this version")
    count, names_len = _COUNTS.unpack_from(data, len(_MAGIC))
    if len(data) != _HEAD_BYTES + count * _ROW_BYTES + names_len + DIGEST_BYTES:
        raise ValueError("stat cache is cut off")
    view = memoryview(data)
    if digest_of(view[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
        raise ValueError("stat cache is damaged")
    columns = tuple(_column(view, kind, i, count) for i, kind in enumerate("qqqQ"))
    digests_at = _HEAD_BYTES + count * 4 * 8
    names_at = digests_at + count * DIGEST_BYTES
    return Saved(columns, data[digests_at:names_at], data[names_at : names_at + names_len])


def _column(view: memoryview, kind: str, index: int, count: int) -> array[int]:
    start = _HEAD_BYTES + index * count * 8
    column = array(kind)
    column.frombytes(view[start : start + count * 8])
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _little_endian(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()
