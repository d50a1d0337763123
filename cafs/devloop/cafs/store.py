"""The blob store: its interface, and the one on a local disk.

Owns the promise that what is read is what was stored. Refuses to know what the bytes mean, who
asks for them, and which are still wanted (`gc` decides that). `blobdir` documents the layout.

A blob appears under its name by one rename that replaces no other file, so what a reader opens
is whole unless the machine lost power before `sync`. That case, and flipped bits, are found
because every read hashes what it read; a blob found bad is removed, counts as missing from then
on, and is healed by the next put.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Protocol

from .blobdir import BlobDir, Buffer, free_bytes, write_all
from .digest import Digest, Hasher
from .errors import BlobCorrupt, BlobMismatch, BlobMissing, Problem, StoreFull, SyncFailed
from .syscalls import clone_file, sync_filesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

__all__ = ["BlobStore", "BlobWriter", "DiskStore", "Stored", "disk_full"]

_CHUNK_BYTES = 1 << 18
_CLONE_FROM_BYTES = 1 << 20  # below this a copy costs less than asking for a clone
_FSYNC_AT_MOST = 16  # a busy disk makes syncfs wait for strangers' bytes; many blobs are worth it


class BlobWriter(Protocol):
    """A blob on its way in. Leaving the `with` block without `commit` drops it."""

    def write(self, data: Buffer, /) -> None: ...

    def commit(self) -> None:
        """Stores the blob. Raises BlobMismatch when the bytes are not those announced."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


class BlobStore(Protocol):
    """Blobs by digest. Methods may be called from several threads at once.

    Whatever is read is verified: BlobMissing when it is not there, BlobCorrupt when it is not what
    its digest names (and then it is missing from now on). Whatever is written is verified before
    it can be read: BlobMismatch; StoreFull when there is no space. `has` and `missing` look at
    names only.
    """

    def has(self, digest: Digest, /) -> bool: ...

    def missing(self, digests: Iterable[Digest], /) -> list[Digest]:
        """Those not stored, each once, in the order asked."""

    def get(self, digest: Digest, /) -> bytes: ...

    def put(self, digest: Digest, data: Buffer, /) -> None:
        """Stores `data`. Replaces a stored blob that is corrupt, and leaves a good one alone."""

    def writer(self, digest: Digest, size_bytes: int, /) -> BlobWriter:
        """For a blob that is too large to hold in memory."""

    def copy_to(self, digest: Digest, target_fd: int, /) -> int:
        """Writes the blob to an empty file that the caller throws away should this raise.

        Returns its size.
        """

    def read_range(self, digest: Digest, offset: int, size_bytes: int, /) -> bytes:
        """Part of a blob, shorter at its end. NOT verified: the result must be checked otherwise,
        as a writer's `commit` does for a blob that is put together from ranges."""

    def size_bytes(self, digest: Digest, /) -> int: ...

    def delete(self, digest: Digest, /) -> None:
        """Forgets the blob; no error when it is not there."""

    def sync(self) -> None:
        """Returns when every blob put before the call survives a loss of power.

        Raises SyncFailed when the disk did not take them; they are missing from then on.
        """

    def __iter__(self) -> Iterator[Digest]: ...


class Stored(NamedTuple):
    """A blob as its directory entry shows it, contents unseen."""

    digest: Digest
    size_bytes: int
    put_ns: int  # Unix time of the last put


class DiskStore:
    """A `BlobStore` in one directory; several processes may share it."""

    def __init__(self, root: Path) -> None:
        """Makes the directory unless it is there. Raises StoreUnusable."""
        self.root = root
        self._dir = BlobDir(root)
        self._unsynced: deque[Digest] = deque()
        self._sync_lock = Lock()

    def close(self) -> None:
        """Idempotent. What was put since the last `sync` stays readable, and is not durable."""
        self._dir.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def path_of(self, digest: Digest) -> Path:
        """Where the blob is or would be; for messages, tests and repair."""
        return self._dir.path_of(digest)

    def has(self, digest: Digest) -> bool:
        return self._dir.has(digest)

    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        has = self._dir.has
        return [digest for digest in dict.fromkeys(digests) if not has(digest)]

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
            size_bytes = os.fstat(fd).st_size
            cloned = size_bytes >= _CLONE_FROM_BYTES and clone_file(fd, target_fd)
            if self._hash(digest, fd, None if cloned else target_fd) != digest:
                raise self._drop_corrupt(digest, fd, "does not hash to its name")
            return size_bytes
        finally:
            os.close(fd)

    def _hash(self, digest: Digest, fd: int, copy_fd: int | None = None) -> bytes:
        """Hashes the open file, and copies what it hashed."""
        hasher = Hasher()
        # One buffer for all reads: a fresh megabyte a read costs more than the copy itself.
        buffer = bytearray(min(_CHUNK_BYTES, os.fstat(fd).st_size + 1))
        with memoryview(buffer) as view:
            while read_bytes := self._read_into(digest, fd, buffer):
                hasher.update(view[:read_bytes])
                if copy_fd is not None:
                    write_all(copy_fd, view[:read_bytes])
        return hasher.digest()

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

    def size_bytes(self, digest: Digest) -> int:
        return self._dir.lstat(digest).st_size

    def _unreadable(self, digest: Digest, fd: int, error: OSError) -> Exception:
        """A blob on bad sectors is as good as gone; any other error is passed on."""
        if error.errno != errno.EIO:
            return error
        return self._drop_corrupt(digest, fd, "cannot be read from the disk")

    def _drop_corrupt(self, digest: Digest, fd: int, reason: str) -> BlobCorrupt:
        self._dir.unlink_open(digest, fd)
        return BlobCorrupt(self.path_of(digest), digest, reason)

    # ------------------------------------------------------------------ writing

    def put(self, digest: Digest, data: Buffer) -> None:
        if Hasher(data).digest() != digest:
            raise BlobMismatch(digest, f"({len(data):,} bytes) hash to something else")
        temp = self._dir.temp_name(digest)
        try:
            self._dir.write_temp(temp, data)
            self._publish(temp, digest)
        except OSError as error:
            self._dir.unlink(temp)
            raise disk_full(error, self.root, len(data)) or error from error

    def writer(self, digest: Digest, size_bytes: int) -> BlobWriter:
        free = free_bytes(self.root)
        if size_bytes > free:
            raise StoreFull(self.root, size_bytes, free)
        return _DiskWriter(self._dir, self._publish, digest, size_bytes)

    def delete(self, digest: Digest) -> None:
        self._dir.delete(digest)

    def delete_unless_newer(self, digest: Digest, newest_ns: int) -> bool:
        """Deletes the blob unless it was put after `newest_ns` (Unix time)."""
        try:
            if self._dir.lstat(digest).st_mtime_ns > newest_ns:
                return False
        except BlobMissing:
            return False
        self.delete(digest)
        return True

    def _publish(self, temp: str, digest: Digest) -> None:
        """Gives the verified file `temp` its name. A good blob that has it stays, so that one
        already durable is never exchanged for one that is not."""
        if not self._dir.publish(temp, digest):
            if self._refresh(digest):
                self._dir.unlink(temp)
            else:
                self._dir.replace(temp, digest)
        self._unsynced.append(digest)

    def _refresh(self, digest: Digest) -> bool:
        """Is a good copy stored? Marks it as put now, which keeps garbage collection away."""
        try:
            fd = self._dir.open(digest)
        except BlobMissing:
            return False
        try:
            os.utime(fd)
            return self._hash(digest, fd) == digest
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

    def stored(self) -> Iterator[Stored]:
        """Every blob with its size and time."""
        for digest in self:
            try:
                status = self._dir.lstat(digest)
            except BlobMissing:
                continue
            yield Stored(digest, status.st_size, status.st_mtime_ns)

    def verify(self) -> Iterator[Problem]:
        """Hashes every blob. Yields what is wrong; corrupt blobs are removed as they are found."""
        for name, digest in self._dir.listing():
            reason = self._verified(digest) if digest is not None else "is not a blob"
            if reason:
                yield Problem(self._dir.root / "blobs" / name, reason)

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
        """Removes what killed writers left. Returns how many files that were.

        The age protects writers that are at work now, here or in another process.
        """
        return self._dir.remove_temporaries(older_than_s)


class _DiskWriter:
    """Hashes and counts while it writes, so that commit reads nothing again."""

    def __init__(
        self,
        directory: BlobDir,
        publish: Callable[[str, Digest], None],
        digest: Digest,
        size_bytes: int,
    ) -> None:
        self._dir = directory
        self._publish = publish
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
            self._publish(self._temp, self._digest)
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
        return disk_full(error, self._dir.root, self._left_bytes) or error

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def disk_full(error: OSError, path: Path, need_bytes: int) -> StoreFull | None:
    """`error` as a StoreFull when it means that the disk or quota of `path` is used up."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return StoreFull(path, need_bytes, free_bytes(path))


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
