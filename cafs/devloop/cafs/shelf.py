"""Files that are named by the digest of their bytes, in one directory: opening, verified reading.

Refuses to know how they come there, and which directory a blob is looked for in first.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from .digest import Digest, Hasher
from .errors import BlobCorrupt, BlobMissing
from .syscalls import flush_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["Buffer", "Shelf", "write_all"]

Buffer = bytes | bytearray | memoryview

_CHUNK_BYTES = 1 << 18
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class Shelf:
    """Reading raises BlobMissing, BlobCorrupt, and OSError for anything but bad sectors. A file
    that is corrupt is gone by then."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError."""
        self.directory = directory
        self.fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        """Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def name_of(self, digest: Digest) -> str:
        """Relative to the directory."""
        return digest.hex()

    def path_of(self, digest: Digest) -> Path:
        return self.directory / self.name_of(digest)

    def has(self, digest: Digest) -> bool:
        return os.access(self.name_of(digest), os.F_OK, dir_fd=self.fd)

    def lstat(self, digest: Digest) -> os.stat_result:
        try:
            return os.stat(self.name_of(digest), dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            raise BlobMissing(digest) from None

    def open(self, digest: Digest) -> int:
        try:
            return os.open(self.name_of(digest), _READ, dir_fd=self.fd)
        except FileNotFoundError:
            raise BlobMissing(digest) from None

    # ------------------------------------------------------------------ reading an open file

    def read(self, digest: Digest, fd: int) -> bytes:
        try:
            data = _read_all(fd)
        except OSError as error:
            raise self._unreadable(digest, fd, error) from error
        if Hasher(data).digest() != digest:
            raise self.drop_corrupt(digest, fd)
        return data

    def read_range(self, digest: Digest, fd: int, offset: int, size_bytes: int) -> bytes:
        """Not verified."""
        try:
            return os.pread(fd, size_bytes, offset)
        except OSError as error:
            raise self._unreadable(digest, fd, error) from error

    def verify(self, digest: Digest, fd: int, copy_fd: int | None = None) -> int:
        """Hashes the file, and copies what it hashed. Returns its size."""
        hasher, size_bytes = Hasher(), 0
        for piece in self._pieces(digest, fd):
            hasher.update(piece)
            size_bytes += len(piece)
            if copy_fd is not None:
                write_all(copy_fd, piece)
        if hasher.digest() != digest:
            raise self.drop_corrupt(digest, fd)
        return size_bytes

    def copy(self, digest: Digest, fd: int, copy_fd: int) -> None:
        """Not verified. Calls that copy within the kernel were no faster than this."""
        for piece in self._pieces(digest, fd):
            write_all(copy_fd, piece)

    def _pieces(self, digest: Digest, fd: int) -> Iterator[memoryview]:
        """Each is good until the next: a fresh buffer a read costs more than the copy itself."""
        buffer = bytearray(min(_CHUNK_BYTES, os.fstat(fd).st_size + 1))
        with memoryview(buffer) as view:
            while read_bytes := self._read_into(digest, fd, buffer):
                yield view[:read_bytes]

    def _read_into(self, digest: Digest, fd: int, buffer: bytearray) -> int:
        try:
            return os.readv(fd, [buffer])
        except OSError as error:
            raise self._unreadable(digest, fd, error) from error

    def _unreadable(self, digest: Digest, fd: int, error: OSError) -> Exception:
        """A blob on bad sectors is as good as gone; any other error is passed on."""
        if error.errno != errno.EIO:
            return error
        return self.drop_corrupt(digest, fd, "cannot be read from the disk")

    # ------------------------------------------------------------------ dropping, flushing

    def drop_corrupt(
        self, digest: Digest, fd: int, reason: str = "does not hash to its name"
    ) -> BlobCorrupt:
        """Removes the file that `fd` has open, unless the name now belongs to another one."""
        try:
            if os.path.samestat(self.lstat(digest), os.fstat(fd)):
                self.delete(digest)
        except BlobMissing:
            pass
        return BlobCorrupt(self.path_of(digest), digest, reason)

    def delete(self, digest: Digest) -> None:
        self.unlink(self.name_of(digest))

    def unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            pass

    def flush(self, digests: Iterable[Digest]) -> None:
        """fsync of each file that is here, then of the directories that hold them."""
        parents = set()
        for digest in digests:
            parents.add(os.path.dirname(self.name_of(digest)) or ".")
            try:
                fd = self.open(digest)
            except BlobMissing:
                continue  # deleted since: nothing to keep
            try:
                flush_file(fd)
            finally:
                os.close(fd)
        for name in parents:
            self._flush_directory(name)

    def _flush_directory(self, name: str) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.fd)
        try:
            flush_file(fd)
        finally:
            os.close(fd)


def write_all(fd: int, data: Buffer) -> None:
    written = os.write(fd, data)
    if written == len(data):
        return
    with memoryview(data) as view:
        while written < len(view):
            written += os.write(fd, view[written:])


def _read_all(fd: int) -> bytes:
    """The whole file; the first read asks for a byte more, so that its end is seen at once."""
    size_bytes = os.fstat(fd).st_size
    data = os.read(fd, size_bytes + 1)
    if len(data) == size_bytes:
        return data
    parts = [data]
    while data:
        data = os.read(fd, _CHUNK_BYTES)
        parts.append(data)
    return b"".join(parts)
