"""Blobs on their way into a store, whose names other programs trust without looking.

A file that the kernel serves is not hashed when it is read. So a blob gets its name only once its
bytes are on the disk: after a loss of power it is whole or missing. Until then it lies under a
temporary name, from which it can be read already. Owns that order; refuses to know where blobs come
from, and that they are the right ones: the caller has verified what it brings.
"""

from __future__ import annotations

import os
from threading import Lock
from typing import TYPE_CHECKING

from devloop.cafs.blobdir import BlobDir, disk_full
from devloop.cafs.errors import BlobMissing, SyncFailed
from devloop.cafs.syscalls import flush_file, sync_filesystem

if TYPE_CHECKING:
    from pathlib import Path

    from devloop.cafs.digest import Digest
    from devloop.cafs.shelf import Buffer

__all__ = ["Landing"]

_FSYNC_AT_MOST = 16  # a busy disk makes syncfs wait for strangers' bytes; many blobs are worth it
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class Landing:
    """For many threads. Methods that write raise StoreFull and OSError."""

    def __init__(self, root: Path) -> None:
        """`root` is that of `WholeFiles`. Raises StoreUnusable."""
        self._dir = BlobDir(root)
        self._pending: dict[Digest, str] = {}
        self._lock = Lock()  # of `_pending`
        self._settling = Lock()

    def close(self) -> None:
        """Settles what is pending, as far as the disk takes it. Idempotent."""
        if self._dir.fd < 0:
            return
        try:
            self.settle()
        except SyncFailed:
            pass
        self._dir.close()

    @property
    def root(self) -> Path:
        return self._dir.root

    @property
    def pending(self) -> int:
        return len(self._pending)

    def has(self, digest: Digest) -> bool:
        return digest in self._pending or self._dir.has(digest)

    def named_bytes(self, digest: Digest) -> int | None:
        """The size of the file that has the blob's name, where there is one."""
        try:
            return self._dir.lstat(digest).st_size
        except BlobMissing:
            return None

    def open(self, digest: Digest) -> int:
        """A descriptor to read from, also of what is pending. Raises BlobMissing, OSError."""
        try:
            return self._dir.open(digest)
        except BlobMissing:
            temp = self._pending.get(digest)
        if temp is not None:
            try:
                return self.open_temp(temp)
            except FileNotFoundError:
                pass  # it has got its name in between
        return self._dir.open(digest)

    def read(self, digest: Digest) -> bytes:
        """All of a small blob, verified. Raises BlobMissing, BlobCorrupt, OSError."""
        fd = self.open(digest)
        try:
            return self._dir.read(digest, fd)
        finally:
            os.close(fd)

    def drop(self, digest: Digest) -> None:
        """A stored blob that is damaged: it is missing from now on."""
        self._dir.delete(digest)

    # ------------------------------------------------------------------ bringing in

    def put(self, digest: Digest, data: Buffer) -> None:
        temp = self._dir.temp_name(digest)
        try:
            self._dir.write_temp(temp, data)
        except OSError as error:
            self._dir.unlink(temp)
            raise self.explained(error, len(data)) from error
        self.adopt(digest, temp)

    def create(self, digest: Digest, size_bytes: int) -> str:
        """A temporary file of that size, empty of bytes, to be filled in any order."""
        temp = self._dir.temp_name(digest)
        fd = self._dir.create_temp(temp)
        try:
            os.fchmod(fd, 0o600)  # until it is sealed it is opened for each write
            os.ftruncate(fd, size_bytes)
        except OSError as error:
            self._dir.unlink(temp)
            raise self.explained(error, size_bytes) from error
        finally:
            os.close(fd)
        return temp

    def write(self, temp: str, offset: int, data: Buffer) -> None:
        fd = os.open(temp, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=self._dir.fd)
        try:
            _pwrite_all(fd, data, offset)
        except OSError as error:
            raise self.explained(error, len(data)) from error
        finally:
            os.close(fd)

    def seal(self, temp: str) -> None:
        """Nobody writes to it from now on."""
        os.chmod(temp, 0o444, dir_fd=self._dir.fd)

    def open_temp(self, temp: str) -> int:
        return os.open(temp, _READ, dir_fd=self._dir.fd)

    def adopt(self, digest: Digest, temp: str) -> None:
        """The temporary file holds the blob, verified: `settle` names it."""
        with self._lock:
            older = self._pending.pop(digest, None)
            self._pending[digest] = temp
        if older is not None:
            self._dir.unlink(older)

    def discard(self, temp: str) -> None:
        self._dir.unlink(temp)

    def explained(self, error: OSError, need_bytes: int) -> Exception:
        return disk_full(error, self._dir.root, need_bytes) or error

    # ------------------------------------------------------------------ naming

    def settle(self) -> int:
        """Flushes what is pending and names it. Returns how many blobs that were.

        Raises SyncFailed when the disk did not take them; they are missing then.
        """
        with self._settling:
            with self._lock:
                batch = dict(self._pending)
            if not batch:
                return 0
            try:
                self._flush(batch)
            except OSError as error:
                # The kernel may have dropped the dirty pages: a second fsync would report success.
                self._forget(batch)
                reason = error.strerror or str(error)
                raise SyncFailed(self._dir.root, len(batch), reason) from error
            for digest, temp in batch.items():
                self._name(digest, temp)
            return len(batch)

    def sync_names(self) -> bool:
        """No name that is there now is lost with the power. False where that cannot be had."""
        return sync_filesystem(self._dir.fd)

    def _flush(self, batch: dict[Digest, str]) -> None:
        if len(batch) > _FSYNC_AT_MOST and sync_filesystem(self._dir.fd):
            return
        for temp in batch.values():
            fd = self.open_temp(temp)
            try:
                flush_file(fd)
            finally:
                os.close(fd)

    def _name(self, digest: Digest, temp: str) -> None:
        try:
            if not self._dir.publish(temp, digest):
                self._dir.unlink(temp)  # another process was faster
        except FileNotFoundError:
            pass  # somebody cleaned up: it is missing, and fetched again
        with self._lock:
            if self._pending.get(digest) == temp:
                del self._pending[digest]

    def _forget(self, batch: dict[Digest, str]) -> None:
        for digest, temp in batch.items():
            with self._lock:
                if self._pending.get(digest) == temp:
                    del self._pending[digest]
            self._dir.unlink(temp)


def _pwrite_all(fd: int, data: Buffer, offset: int) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)
