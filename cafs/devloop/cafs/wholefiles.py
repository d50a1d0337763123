"""Large blobs, one whole file each: images map them, and a reader may clone them.

Owns putting, lending and verifying such files, and which one a blob is read from. `blobdir` owns
their names, `shelf` how one is read, `lent` those that a workspace shares. Refuses to know packs.

A file appears under its name by one rename that replaces no other, so what a reader opens is whole
unless the machine lost power before `sync`. That case, and flipped bits, are found because reads
hash what they read. The one exception: a copy of a file that this process has hashed before, and
whose inode says that nobody has written to it since.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .blobdir import PRIVATE, BlobDir, Buffer, disk_full, free_bytes, write_all
from .digest import Digest, Hasher
from .errors import (
    BlobCorrupt,
    BlobMismatch,
    BlobMissing,
    Problem,
    StoreFull,
    StoreUnusable,
    SyncFailed,
)
from .lent import LentFiles
from .syscalls import clone_file, sync_filesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Self

    from .shelf import Shelf

__all__ = ["Draft", "FileWriter", "Stored", "WholeFiles"]

T = TypeVar("T")

_CLONE_FROM_BYTES = 1 << 20  # below this a copy costs less than asking for a clone
_FSYNC_AT_MOST = 16  # a busy disk makes syncfs wait for strangers' bytes; many blobs are worth it
_UNKNOWN = Digest(bytes(32))  # whose directory a temporary file may lie in as well
_MOST_SEALS = 10_000  # forgetting one costs hashing its file again


class _Seal(NamedTuple):
    """How an inode looked when its bytes were known to be good. Any write changes it, and so does
    lending the file."""

    inode: int
    mode: int
    links: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


class Stored(NamedTuple):
    """A blob as its directory entry shows it, contents unseen."""

    digest: Digest
    size_bytes: int
    put_ns: int  # Unix time of the last put, or later
    is_shared: bool = False  # a workspace has its file too: to delete it here gives nothing back


class WholeFiles:
    """Errors are those of `BlobStore`; an OSError that means a full disk is the caller's to name,
    but for the writer's."""

    def __init__(self, root: Path, *, folder_mode: int = PRIVATE) -> None:
        """Makes the directory unless it is there. Raises StoreUnusable."""
        self.root = root
        self._dir = BlobDir(root, folder_mode=folder_mode)
        try:
            self._lent = LentFiles(root / "lent")
        except OSError as error:
            self._dir.close()
            raise StoreUnusable(f"cannot use {root} as a blob store: {error.strerror}") from error
        self._unsynced: deque[Digest] = deque()
        self._sync_lock = Lock()
        # Held while a blob gets or loses its name in either directory, and while its time is set:
        # that of a file which has been lent in between would be the workspace's.
        self._name_lock = Lock()
        self._seals: dict[Digest, _Seal] = {}
        self._has_clones: bool | None = None  # None: not tried yet

    def close(self) -> None:
        """Idempotent. What was put since the last `sync` stays readable, and is not durable."""
        self._dir.close()
        self._lent.close()

    def path_of(self, digest: Digest) -> Path:
        is_lent = digest in self._lent and not self._dir.has(digest)
        return (self._lent if is_lent else self._dir).path_of(digest)

    def has(self, digest: Digest) -> bool:
        return self._dir.has(digest) or digest in self._lent

    def look_at(self, digest: Digest) -> Stored:
        """Raises BlobMissing."""
        shelf, found = self._first(lambda shelf: shelf.lstat(digest))
        if shelf is self._dir:
            return Stored(digest, found.st_size, found.st_mtime_ns)
        return Stored(digest, found.st_size, found.st_ctime_ns, is_shared=found.st_nlink > 1)

    def _first(self, look: Callable[[Shelf], T]) -> tuple[Shelf, T]:
        """Where the blob is, and what `look` says there, unless that raises BlobMissing."""
        for shelf in (self._dir, self._lent):
            try:
                return shelf, look(shelf)
            except BlobMissing:
                continue
        # It may have been put again, and so given up as lent, between the two looks.
        return self._dir, look(self._dir)

    def _open(self, digest: Digest) -> tuple[Shelf, int]:
        return self._first(lambda shelf: shelf.open(digest))

    # ------------------------------------------------------------------ reading

    def get(self, digest: Digest) -> bytes:
        shelf, fd = self._open(digest)
        try:
            return shelf.read(digest, fd)
        finally:
            os.close(fd)

    def read_range(self, digest: Digest, offset: int, size_bytes: int) -> bytes:
        shelf, fd = self._open(digest)
        try:
            return shelf.read_range(digest, fd, offset, size_bytes)
        finally:
            os.close(fd)

    def check(self, digest: Digest) -> bool:
        try:
            shelf, fd = self._open(digest)
        except BlobMissing:
            return False
        try:
            shelf.verify(digest, fd)
        except BlobCorrupt:
            return False
        finally:
            os.close(fd)
        return True

    def copy_to(self, digest: Digest, target_fd: int) -> int:
        shelf, fd = self._open(digest)
        try:
            if shelf is self._lent:
                return shelf.verify(digest, fd, target_fd)
            return self._copy(digest, fd, target_fd)
        finally:
            os.close(fd)

    def _copy(self, digest: Digest, fd: int, target_fd: int) -> int:
        seal = _seal(fd)
        is_cloned = seal.size_bytes >= _CLONE_FROM_BYTES and clone_file(fd, target_fd)
        if self._seals.get(digest) != seal:
            self._verify(digest, fd, None if is_cloned else target_fd)
        elif not is_cloned:
            self._dir.copy(digest, fd, target_fd)
            if _seal(fd) != seal:  # lent meanwhile: what came after that is anybody's
                os.lseek(fd, 0, os.SEEK_SET)
                os.lseek(target_fd, 0, os.SEEK_SET)
                os.ftruncate(target_fd, 0)
                return self._lent.verify(digest, fd, target_fd)
        return seal.size_bytes

    def _verify(self, digest: Digest, fd: int, copy_fd: int | None = None) -> None:
        """Of a file in `blobs`: from then on its seal is known."""
        seal = _seal(fd)
        if self._seals.get(digest) != seal:
            self._dir.verify(digest, fd, copy_fd)
            self._remember(digest, seal)

    def _remember(self, digest: Digest, seal: _Seal) -> None:
        if len(self._seals) >= _MOST_SEALS:
            self._seals.clear()
        self._seals[digest] = seal

    # ------------------------------------------------------------------ lending

    def lend(self, digest: Digest, directory_fd: int, name: bytes) -> int | None:
        try:
            fd = self._dir.open(digest)
        except BlobMissing:
            return None
        try:
            found = os.fstat(fd)
            # Another link is somebody's who relies on the file as it is.
            if found.st_nlink != 1 or not self._can_lend(fd, directory_fd):
                return None
            self._verify(digest, fd)
            with self._name_lock:
                is_lent = self._lent.lend(digest, self._dir, directory_fd, name)
            if is_lent:
                return found.st_size
            self._unsynced.append(digest)  # a `sync` under way may just have missed it
            return None
        finally:
            os.close(fd)

    def _can_lend(self, fd: int, directory_fd: int) -> bool:
        """Not where a file system can clone: clones are as cheap, and nobody shares anything."""
        if os.fstat(directory_fd).st_dev != os.fstat(fd).st_dev:
            return False
        if self._has_clones is None:
            self._has_clones = self._try_clone(fd)
        return not self._has_clones

    def _try_clone(self, fd: int) -> bool:
        temp = self._dir.temp_name(Digest(bytes(32)))
        copy_fd = self._dir.create_temp(temp)
        try:
            return clone_file(fd, copy_fd)
        finally:
            os.close(copy_fd)
            self._dir.unlink(temp)

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

    def put_new(self, digest: Digest, data: Buffer) -> bool:
        """As `put`, but a good blob that is there is not written again. Was it written?"""
        if self._dir.has(digest) and self._refresh(digest):
            self._unsynced.append(digest)
            return False
        self.put(digest, data)
        return True

    def draft(self) -> Draft:
        """For a blob of which nobody knows the digest before its last byte."""
        return Draft(self, self._dir)

    def writer(self, digest: Digest, size_bytes: int) -> FileWriter:
        return FileWriter(self, self._dir, digest, size_bytes)

    def delete(self, digest: Digest) -> None:
        self._seals.pop(digest, None)
        with self._name_lock:
            self._dir.delete(digest)
            self._lent.delete(digest)

    def publish(self, temp: str, digest: Digest) -> None:
        """Gives the verified file `temp` its name. A good blob that has it stays, so that one
        already durable is never exchanged for one that is not."""
        if not self._name(temp, digest, self._dir.publish):
            if self._refresh(digest):
                self._dir.unlink(temp)
            else:
                self._name(temp, digest, self._dir.replace)
        self._unsynced.append(digest)

    def _name(self, temp: str, digest: Digest, rename: Callable[[str, Digest], bool]) -> bool:
        with self._name_lock:
            if not rename(temp, digest):
                return False
            self._lent.delete(digest)
            with contextlib.suppress(BlobMissing):  # another process has lent or deleted it
                self._remember(digest, _seal(self._dir.lstat(digest)))
            return True

    def _refresh(self, digest: Digest) -> bool:
        """Is a good copy in `blobs`? Marks it as put now, which keeps garbage collection away."""
        try:
            fd = self._open_now(digest)
        except (BlobMissing, FileNotFoundError, PermissionError):
            return False
        try:
            self._verify(digest, fd)
        except BlobCorrupt:
            return False
        finally:
            os.close(fd)
        return True

    def _open_now(self, digest: Digest) -> int:
        with self._name_lock:
            os.utime(self._dir.name_of(digest), dir_fd=self._dir.fd, follow_symlinks=False)
            return self._dir.open(digest)

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
        # After the other: a blob may be lent meanwhile, and never goes back.
        self._lent.flush(digest for digest in batch if digest in self._lent)

    # ------------------------------------------------------------------ upkeep

    def __iter__(self) -> Iterator[Digest]:
        yield from (digest for _, digest in self._dir.listing() if digest is not None)
        yield from (digest for digest in self._lent if not self._dir.has(digest))

    def verify(self) -> Iterator[Problem]:
        """Hashes every blob. Yields what is wrong; corrupt blobs are removed as they are found.

        A lent one that a run has written to is removed too, and nothing is wrong with that.
        """
        for name, digest in self._dir.listing():
            reason = self._problem(digest) if digest is not None else "is not a blob"
            if reason:
                yield Problem(self._dir.directory / name, reason)
        for digest in self._lent:
            self.check(digest)

    def _problem(self, digest: Digest) -> str:
        """What is wrong with the blob; empty when nothing is."""
        try:
            fd = self._dir.open(digest)
        except BlobMissing:
            return ""  # deleted, or lent, since its name was read
        except OSError as error:
            return error.strerror or str(error)
        try:
            self._dir.verify(digest, fd)
        except BlobCorrupt as error:
            return f"{error.reason}; removed"
        finally:
            os.close(fd)
        return ""

    def remove_temporaries(self, older_than_s: float) -> int:
        self._give_up_doubles()
        return self._dir.remove_temporaries(older_than_s)

    def _give_up_doubles(self) -> None:
        """A kill between the two steps of a put leaves a blob in both directories."""
        for digest in self._lent:
            with self._name_lock:
                if self._dir.has(digest):
                    self._lent.delete(digest)


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


class Draft:
    """A file that becomes a blob. Raises OSError; whoever leaves the block without `commit` stores
    nothing."""

    def __init__(self, files: WholeFiles, directory: BlobDir) -> None:
        self._files = files
        self._dir = directory
        self._hasher = Hasher()
        self._temp = directory.temp_name(_UNKNOWN)
        self._fd = directory.create_temp(self._temp)

    def write(self, data: Buffer) -> None:
        self._hasher.update(data)
        write_all(self._fd, data)

    def write_hole(self, zeros: Buffer) -> None:
        """`zeros` become part of the content, and take no space on the disk."""
        self._hasher.update(zeros)
        size_bytes = os.lseek(self._fd, len(zeros), os.SEEK_CUR)
        os.ftruncate(self._fd, size_bytes)

    def commit(self) -> Digest:
        digest = Digest(self._hasher.digest())
        self._close()
        self._files.publish(self._temp, digest)
        return digest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._close()
        finally:
            self._dir.unlink(self._temp)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _seal(of: int | os.stat_result) -> _Seal:
    """Of an open file, or of what `stat` said."""
    s = os.fstat(of) if isinstance(of, int) else of
    return _Seal(s.st_ino, s.st_mode, s.st_nlink, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
