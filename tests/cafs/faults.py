"""Stores that go wrong in one way each: wrappers of the interface, so that any test can use one."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, BinaryIO

from devloop.cafs.digest import Digest
from devloop.cafs.packfile import RECORD_BYTES
from devloop.cafs.store import disk_full

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from random import Random

    from devloop.cafs.blobdir import Buffer
    from devloop.cafs.packs import Place
    from devloop.cafs.store import BlobStore, BlobWriter, DiskStore

__all__ = ["LosesUnsynced", "Passes", "RunsFull", "flip_byte", "flip_byte_at", "is_pack", "tear"]


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

    def put_small(self, blobs: Sequence[tuple[Digest, Buffer]]) -> None:
        for digest, data in blobs:
            self.put(digest, data)

    def writer(self, digest: Digest, size_bytes: int) -> BlobWriter:
        return self.inner.writer(digest, size_bytes)

    def copy_to(self, digest: Digest, target_fd: int) -> int:
        return self.inner.copy_to(digest, target_fd)

    def lend(self, digest: Digest, directory_fd: int, name: bytes) -> int | None:
        return self.inner.lend(digest, directory_fd, name)

    def check(self, digest: Digest) -> bool:
        return self.inner.check(digest)

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
        """Closes the disk store: what comes after is read by another."""
        stored = set(self.disk)
        torn = [self.disk.place_of(digest) for digest in sorted(self.unsynced & stored)]
        kept = [self.disk.place_of(digest) for digest in stored - self.unsynced]
        self.disk.close()
        for place in torn:
            tear(place, random)
        for path in {place.path for place in torn if is_pack(place)}:
            _tear_end(path, [place for place in kept if place.path == path], random)
        self.unsynced.clear()


def is_pack(place: Place) -> bool:
    return place.path.suffix == ".pack"


def flip_byte(store: DiskStore, digest: Digest, offset: int = 0) -> None:
    """Of the stored bytes of a blob that is not empty."""
    place = store.place_of(digest)
    flip_byte_at(place.path, place.offset + offset % place.size_bytes)


def flip_byte_at(path: Path, offset: int) -> None:
    with _opened(path) as file:
        byte = os.pread(file.fileno(), 1, offset)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), offset)


def tear(place: Place, random: Random) -> None:
    """What file systems leave of bytes that were written and not flushed."""
    if is_pack(place):
        _tear_record(place, random)
    elif place.path.exists():
        _tear_file(place.path, random)


def _tear_file(path: Path, random: Random) -> None:
    """Renamed into place, and not flushed."""
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


def _tear_record(place: Place, random: Random) -> None:
    """Appended to a file of which only the length may have reached the disk."""
    begin, end = place.offset - RECORD_BYTES, place.offset + place.size_bytes
    match random.choice(["survives", "lost", "header lost", "blob lost", "half lost"]):
        case "survives":
            return
        case "header lost":
            end = place.offset
        case "blob lost":
            begin = place.offset
        case "half lost":
            begin = random.randrange(begin, end)
    with _opened(place.path) as file:
        os.pwrite(file.fileno(), bytes(end - begin), begin)


def _tear_end(path: Path, kept: list[Place], random: Random) -> None:
    """The length itself may be lost, and the index was never flushed."""
    durable = max((place.offset + place.size_bytes for place in kept), default=0)
    if random.random() < 0.3:
        os.truncate(path, random.randint(durable, path.stat().st_size))
    index = path.with_suffix(".index")
    if index.exists():
        match random.choice(["survives", "lost", "cut", "zeros"]):
            case "lost":
                index.unlink()
            case "cut":
                os.truncate(index, random.randrange(index.stat().st_size))
            case "zeros":
                index.write_bytes(bytes(index.stat().st_size))


def _opened(path: Path) -> BinaryIO:
    path.chmod(0o600)
    return path.open("r+b")


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
