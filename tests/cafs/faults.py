"""Stores that go wrong in one way each: wrappers of the interface, so that any test can use one."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from devloop.cafs.digest import Digest
from devloop.cafs.store import disk_full

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from random import Random

    from devloop.cafs.blobdir import Buffer
    from devloop.cafs.store import BlobStore, BlobWriter, DiskStore

__all__ = ["LosesUnsynced", "Passes", "RunsFull"]


class Passes:
    """Changes nothing."""

    def __init__(self, inner: BlobStore) -> None:
        self.inner = inner

    def has(self, digest: Digest) -> bool:
        return self.inner.has(digest)

    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        return self.inner.missing(digests)

    def get(self, digest: Digest) -> bytes:
        return self.inner.get(digest)

    def put(self, digest: Digest, data: Buffer) -> None:
        self.inner.put(digest, data)

    def writer(self, digest: Digest, size_bytes: int) -> BlobWriter:
        return self.inner.writer(digest, size_bytes)

    def copy_to(self, digest: Digest, target_fd: int) -> int:
        return self.inner.copy_to(digest, target_fd)

    def read_range(self, digest: Digest, offset: int, size_bytes: int) -> bytes:
        return self.inner.read_range(digest, offset, size_bytes)

    def size_bytes(self, digest: Digest) -> int:
        return self.inner.size_bytes(digest)

    def delete(self, digest: Digest) -> None:
        self.inner.delete(digest)

    def sync(self) -> None:
        self.inner.sync()

    def __iter__(self) -> Iterator[Digest]:
        return iter(self.inner)


class LosesUnsynced(Passes):
    """A disk store whose machine can lose power: what was put since `sync` is then lost or torn."""

    def __init__(self, inner: DiskStore) -> None:
        super().__init__(inner)
        self.disk = inner
        self.unsynced: set[Digest] = set()

    def put(self, digest: Digest, data: Buffer) -> None:
        already_durable = self.inner.has(digest) and digest not in self.unsynced
        self.inner.put(digest, data)
        if not already_durable:
            self.unsynced.add(digest)

    def sync(self) -> None:
        self.inner.sync()
        self.unsynced.clear()

    def power_cut(self, random: Random) -> None:
        for digest in sorted(self.unsynced):
            _tear(self.disk, digest, random)
        self.unsynced.clear()


def _tear(store: DiskStore, digest: Digest, random: Random) -> None:
    """What file systems leave of a file that was renamed and not flushed."""
    path = store.path_of(digest)
    if not path.exists():
        return
    size_bytes = path.stat().st_size
    path.chmod(0o600)
    match random.choice(["survives", "lost", "empty", "cut", "zeros", "partly zeros"]):
        case "lost":
            path.unlink()
        case "empty":
            os.truncate(path, 0)
        case "cut":
            os.truncate(path, random.randrange(size_bytes + 1))
        case "zeros":
            path.write_bytes(bytes(size_bytes))
        case "partly zeros":
            start = random.randrange(size_bytes + 1)
            path.write_bytes(path.read_bytes()[:start] + bytes(size_bytes - start))


class RunsFull(Passes):
    """Accepts `room_bytes` of puts, then refuses as a full disk does."""

    def __init__(self, inner: DiskStore, room_bytes: int) -> None:
        super().__init__(inner)
        self.disk = inner
        self.room_bytes = room_bytes

    def put(self, digest: Digest, data: Buffer) -> None:
        if len(data) > self.room_bytes:
            no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            refusal = disk_full(no_space, self.disk.root, len(data))
            assert refusal is not None
            raise refusal
        self.inner.put(digest, data)
        self.room_bytes -= len(data)
