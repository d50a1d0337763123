"""Large blobs, one whole file each: images map them, and a reader may clone them.

Owns reading, writing and verifying such files; `blobdir` owns their names. Refuses to know packs.

A file appears under its name by one rename that replaces no other, so what a reader opens is whole
unless the machine lost power before `sync`. That case, and flipped bits, are found because reads
hash what they read. The one exception: a copy of a file that this process has hashed before, and
whose inode says that nobody has written to it since.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from .blobdir import BlobDir, Buffer, disk_full, free_bytes, write_all
from .digest import Digest, Hasher
from .errors import BlobCorrupt, BlobMismatch, BlobMissing, Problem, StoreFull, SyncFailed
from .syscalls import clone_file, sync_filesystem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

__all__ = ["FileWriter", "WholeFiles"]

_CHUNK_BYTES = 1 << 18
_CLONE_FROM_BYTES = 1 << 20  # below this a copy costs less than asking for a clone
_FSYNC_AT_MOST = 16  # a busy disk makes syncfs wait for strangers' bytes; many blobs are worth it
_MOST_SEALS = 10_000  # forgetting one costs hashing its file again


class _Seal(NamedTuple):
    """How an inode looked when its bytes were known to be good. Any write changes it."""

    inode: int
    mode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


class WholeFiles:
    """Errors are those of `BlobStore`; an OSError that means a full disk is the caller's to name,
    but for the writer's."""

    def __init__(self, root: Path) -> None:
        """Makes the directory unless it is there. Raises StoreUnusable."""
        self.root = root
        self._dir = BlobDir(root)
        self._unsynced: deque[Digest] = deque()
        self._sync_lock = Lock()
        self._seals: dict[Digest, _Seal] = {}

    def close(self) -> None:
        """Idempotent. What was put since the last `sync` stays readable, and is not durable."""
        self._dir.close()

    def path_of(self, digest: Digest) -> Path:
        return self._dir.path_of(digest)

    def has(self, digest: Digest) -> bool:
        return self._dir.has(digest)

    def status(self, digest: Digest) -> os.stat_result:
        return self._dir.lstat(digest)

    # ------------------------------------------------------------------ reading

    def get(self, digest: Digest) -> bytes:
        fd = self._dir.open(digest)
        try:
            data = _read_all(fd)
        except OSError as error:
            raise self._unreadable(digest, fd, error) from error
        else:
            if Hasher(data).digest() != digest:
                raise self._drop_corrupt(digest, fd, "does not hash to its name")
            return data
        finally:
            os.close(fd)

    def copy_to(self, digest: Digest, target_fd: int) -> int:
        fd = self._dir.open(digest)
        try:
            seal = _seal(os.fstat(fd))
            is_cloned = seal.size_bytes >= _CLONE_FROM_BYTES and clone_file(fd, target_fd)
            self._verify_and_copy(digest, fd, seal, None if is_cloned else target_fd)
            return seal.size_bytes
        finally:
            os.close(fd)

    def _verify_and_copy(self, digest: Digest, fd: int, seal: _Seal, copy_fd: int | None) -> None:
        if self._seals.get(digest) == seal:
            if copy_fd is not None:
                self._copy(digest, fd, copy_fd)
            return
        if self._hash(digest, fd, copy_fd) != digest:
            raise self._drop_corrupt(digest, fd, "does not hash to its name")
        self._remember(digest, seal)

    def _hash(self, digest: Digest, fd: int, copy_fd: int | None = None) -> bytes:
        """Hashes the open file, and copies what it hashed."""
        hasher = Hasher()
        for piece in self._pieces(digest, fd):
            hasher.update(piece)
            if copy_fd is not None:
                write_all(copy_fd, piece)
        return hasher.digest()

    def _copy(self, digest: Digest, fd: int, copy_fd: int) -> None:
        # Calls that copy within the kernel were no faster than this.
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

    def read_range(self, digest: Digest, offset: int, size_bytes: int) -> bytes:
        fd = self._dir.open(digest)
        try:
            return os.pread(fd, size_bytes, offset)
        except OSError as error:
            raise self._unreadable(digest, fd, error) from error
        finally:
            os.close(fd)

    def _unreadable(self, digest: Digest, fd: int, error: OSError) -> Exception:
        """A blob on bad sectors is as good as gone; any other error is passed on."""
        if error.errno != errno.EIO:
            return error
        return self._drop_corrupt(digest, fd, "cannot be read from the disk")

    def _drop_corrupt(self, digest: Digest, fd: int, reason: str) -> BlobCorrupt:
        self._seals.pop(digest, None)
        self._dir.unlink_open(digest, fd)
        return BlobCorrupt(self.path_of(digest), digest, reason)

    def _remember(self, digest: Digest, seal: _Seal) -> None:
        if len(self._seals) >= _MOST_SEALS:
            self._seals.clear()
        self._seals[digest] = seal

    # ------------------------------------------------------------------ writing

    def put(self, digest: Digest, data: Buffer) -> None:
        """`data` was verified by the caller."""
        temp = self._dir.temp_name(digest)
        try:
            self._dir.write_temp(temp, data)
            self.publish(temp, digest)
        except OSError:
            self._dir.unlink(temp)
            raise

    def writer(self, digest: Digest, size_bytes: int) -> FileWriter:
        return FileWriter(self, self._dir, digest, size_bytes)

    def delete(self, digest: Digest) -> None:
        self._seals.pop(digest, None)
        self._dir.delete(digest)

    def publish(self, temp: str, digest: Digest) -> None:
        """Gives the verified file `temp` its name. A good blob that has it stays, so that one
        already durable is never exchanged for one that is not."""
        if not self._dir.publish(temp, digest):
            if self._refresh(digest):
                self._dir.unlink(temp)
                self._unsynced.append(digest)
                return
            self._dir.replace(temp, digest)
        self._unsynced.append(digest)
        self._remember(digest, _seal(self._dir.lstat(digest)))

    def _refresh(self, digest: Digest) -> bool:
        """Is a good copy stored? Marks it as put now, which keeps garbage collection away."""
        try:
            fd = self._dir.open(digest)
        except BlobMissing:
            return False
        try:
            os.utime(fd)
            seal = _seal(os.fstat(fd))
            is_good = self._hash(digest, fd) == digest
            if is_good:
                self._remember(digest, seal)
            return is_good
        except (BlobCorrupt, PermissionError):
            return False
        finally:
            os.close(fd)

    # ------------------------------------------------------------------ durability

    def sync(self) -> None:
        # A second caller must not return before the first has finished its blobs.
        with self._sync_lock:
            batch = {self._unsynced.popleft() for _ in range(len(self._unsynced))}
            if not batch:
                return
            try:
                self._flush(batch)
            except OSError as error:
                # The kernel may have dropped the dirty pages: a second fsync would report success.
                for digest in batch:
                    self.delete(digest)
                reason = error.strerror or str(error)
                raise SyncFailed(self.root, len(batch), reason) from error

    def _flush(self, batch: set[Digest]) -> None:
        if len(batch) > _FSYNC_AT_MOST and sync_filesystem(self._dir.fd):
            return
        self._dir.flush(batch)

    # ------------------------------------------------------------------ upkeep

    def __iter__(self) -> Iterator[Digest]:
        return (digest for _, digest in self._dir.listing() if digest is not None)

    def verify(self) -> Iterator[Problem]:
        """Hashes every blob. Yields what is wrong; corrupt blobs are removed as they are found."""
        for name, digest in self._dir.listing():
            reason = self._verified(digest) if digest is not None else "is not a blob"
            if reason:
                yield Problem(self.root / "blobs" / name, reason)

    def _verified(self, digest: Digest) -> str:
        """What is wrong with the blob; empty when nothing is."""
        try:
            fd = self._dir.open(digest)
        except BlobMissing:
            return ""  # deleted since its name was read
        except OSError as error:
            return error.strerror or str(error)
        try:
            if self._hash(digest, fd) == digest:
                return ""
            self._drop_corrupt(digest, fd, "")
        except BlobCorrupt:
            return "could not be read from the disk; removed"
        finally:
            os.close(fd)
        return "did not hash to its name; removed"

    def remove_temporaries(self, older_than_s: float) -> int:
        return self._dir.remove_temporaries(older_than_s)


class FileWriter:
    """Hashes and counts while it writes, so that commit reads nothing again."""

    def __init__(
        self, files: WholeFiles, directory: BlobDir, digest: Digest, size_bytes: int
    ) -> None:
        free = free_bytes(files.root)
        if size_bytes > free:
            raise StoreFull(files.root, size_bytes, free)
        self._files = files
        self._dir = directory
        self._digest = digest
        self._left_bytes = size_bytes
        self._hasher = Hasher()
        self._temp = directory.temp_name(digest)
        self._fd = directory.create_temp(self._temp)

    def write(self, data: Buffer) -> None:
        if len(data) > self._left_bytes:
            raise BlobMismatch(self._digest, "are more than were announced")
        self._hasher.update(data)
        try:
            write_all(self._fd, data)
        except OSError as error:
            raise self._explained(error) from error
        self._left_bytes -= len(data)

    def commit(self) -> None:
        if self._left_bytes:
            raise BlobMismatch(self._digest, f"are {self._left_bytes:,} fewer than announced")
        if self._hasher.digest() != self._digest:
            raise BlobMismatch(self._digest, "hash to something else")
        try:
            self._close()
            self._files.publish(self._temp, self._digest)
        except OSError as error:
            raise self._explained(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._close()
        finally:
            self._dir.unlink(self._temp)

    def _explained(self, error: OSError) -> Exception:
        return disk_full(error, self._files.root, self._left_bytes) or error

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _seal(s: os.stat_result) -> _Seal:
    return _Seal(s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns)


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
