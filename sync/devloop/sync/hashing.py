"""Reading one file of the project: its digest, and the stat that the digest belongs to.

Owns the question "is this digest certain?". Refuses to know of directories, trees and caches.

When a digest is certain. A file is read between two stats that agree, and its ctime is older than
the first of them by more than a granule of the file system's clock. Then every later write gets
another ctime, whatever the program does with mtime, and the stat tells. A file whose ctime is
younger is racily clean: the next write may fall into the same granule and leave size, mtime and
ctime as they are. Its digest is used now, and never trusted again.

A granule is a timer tick on local Linux file systems (10 ms at worst) and nothing on APFS. A file
system that keeps whole seconds (or two, FAT) shows it: the sub-second part of ctime is zero.
One limit: the comparison takes the laptop's clock and the file system's for the same. On a
network file system whose server runs behind, a second write within a tick can pass unseen.
"""

from __future__ import annotations

import os
import stat
import time
from io import FileIO
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.digest import Digest, Hasher, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NotRegular", "Reading", "is_racy", "open_regular", "read_digest"]

_TICK_NS = 20_000_000
_COARSE_NS = 2_000_000_000
_ATTEMPTS = 3
# Small files are read at once. Large ones in pieces, never through mmap: a file that is truncated
# under a mapping kills the process with SIGBUS.
_WHOLE_BYTES = 8 << 20
_PIECE_BYTES = 4 << 20

_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotRegular(OSError):
    """The path no longer names a regular file."""


class Reading(NamedTuple):
    digest: Digest
    size_bytes: int  # of the bytes that were hashed
    mtime_ns: int
    ctime_ns: int
    inode: int
    mode: int  # permission bits
    certain: bool
    data: bytes | None  # the bytes themselves, of a small file


def is_racy(ctime_ns: int, looked_ns: int) -> bool:
    """Whether a write after `looked_ns` could leave the ctime as it is."""
    granule_ns = _TICK_NS if ctime_ns % 1_000_000_000 else _COARSE_NS
    return ctime_ns + granule_ns > looked_ns


def open_regular(path: bytes) -> int:
    """A descriptor of the regular file at `path`; a link is not followed, a FIFO not waited for."""
    fd = os.open(path, _OPEN_FLAGS)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        raise NotRegular(f"not a regular file: {os.fsdecode(path)}")
    except BaseException:
        os.close(fd)
        raise


def read_digest(path: bytes) -> Reading:
    """The file's digest. Raises OSError when it cannot be read.

    A file that changes while it is read is tried again; the last try stands for the bytes that
    it read, and is not certain.
    """
    for _ in range(_ATTEMPTS):
        reading, steady = _read_once(path)
        if steady:
            break
    return reading


def _read_once(path: bytes) -> tuple[Reading, bool]:
    looked_ns = time.time_ns()
    fd = os.open(path, _OPEN_FLAGS)
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise NotRegular(f"not a regular file: {os.fsdecode(path)}")
        digest, size_bytes, data = _digest_of_fd(fd, before.st_size)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    steady = (
        size_bytes == before.st_size == after.st_size
        and before.st_mtime_ns == after.st_mtime_ns
        and before.st_ctime_ns == after.st_ctime_ns
    )
    certain = steady and not is_racy(before.st_ctime_ns, looked_ns)
    mode = before.st_mode & 0o777
    return Reading(
        digest,
        size_bytes,
        before.st_mtime_ns,
        before.st_ctime_ns,
        before.st_ino,
        mode,
        certain,
        data,
    ), steady


def _digest_of_fd(fd: int, size_bytes: int) -> tuple[Digest, int, bytes | None]:
    if size_bytes < _WHOLE_BYTES:
        # One byte more than there should be, so that growth is seen without another read.
        data = os.read(fd, size_bytes + 1)
        if len(data) == size_bytes:
            return digest_of(data), size_bytes, data
        os.lseek(fd, 0, os.SEEK_SET)
    hasher, count = Hasher(max_threads=Hasher.AUTO), 0
    for piece in _pieces(fd, max(size_bytes, 1)):
        hasher.update(piece)
        count += len(piece)
    return Digest(hasher.digest()), count, None


def _pieces(fd: int, limit: int) -> Iterator[memoryview]:
    """Up to `limit` bytes: a file that grows faster than it is read must not be read for ever."""
    buffer = memoryview(bytearray(min(_PIECE_BYTES, limit)))
    with FileIO(fd, closefd=False) as file:
        while limit > 0 and (count := file.readinto(buffer[:limit])):
            limit -= count
            yield buffer[:count]
