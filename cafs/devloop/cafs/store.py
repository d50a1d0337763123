"""The blob store: its interface, and the one on a local disk.

Owns the promise that what is read is what was stored, and which blobs are small: those go into
packs (`packs`), all others are whole files (`wholefiles`). Refuses to know what the bytes mean, who
asks for them, and which are still wanted (`gc` decides that). `blobdir` documents the layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .blobdir import Buffer, disk_full, write_all
from .digest import Digest, Hasher
from .errors import BlobCorrupt, BlobMismatch, BlobMissing, StoreUnusable
from .packfile import MAX_BLOB_BYTES
from .packs import Packs, Place
from .wholefiles import Stored, WholeFiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from .errors import Problem

__all__ = ["SMALL_BYTES", "BlobStore", "BlobWriter", "DiskStore", "Stored", "disk_full"]

SMALL_BYTES = MAX_BLOB_BYTES  # a blob up to this size is kept in a pack


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

    def put_small(self, blobs: Sequence[tuple[Digest, Buffer]], /) -> None:
        """As `put` of each, all of at most SMALL_BYTES, at the price of one write. When it raises
        StoreFull, those that were not there before still are not."""

    def writer(self, digest: Digest, size_bytes: int, /) -> BlobWriter:
        """For a blob that is too large to hold in memory."""

    def copy_to(self, digest: Digest, target_fd: int, /) -> int:
        """Writes the blob to an empty file that the caller throws away should this raise.

        Returns its size.
        """

    def lend(self, digest: Digest, directory_fd: int, name: bytes, /) -> int | None:
        """Makes the blob's own file appear in a directory too: it need not be written twice.

        Returns its size. None, and nothing done, where that is not possible or no gain: `copy_to`
        does it then. The new name's mode and times are the caller's to set, and from now on whoever
        has it may write to it: the blob is then missing, as a corrupt one is. Raises
        FileExistsError when the name is taken.
        """

    def check(self, digest: Digest, /) -> bool:
        """Hashes what is stored. False when it is not there, or not (any more) what was put."""

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


class DiskStore:
    """A `BlobStore` in one directory, for one process at a time, and many threads.

    Several processes do each other no harm; they see each other's small and lent blobs once they
    open the store again, and until then take them for missing.
    """

    def __init__(self, root: Path) -> None:
        """Makes the directory unless it is there. Raises StoreUnusable."""
        self.root = root
        self._files = WholeFiles(root)
        try:
            self._packs = Packs(root / "packs")
        except OSError as error:
            self._files.close()
            raise StoreUnusable(f"cannot use {root} as a blob store: {error.strerror}") from error

    def close(self) -> None:
        """Idempotent. What was put since the last `sync` stays readable, and is not durable."""
        self._packs.close()
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def path_of(self, digest: Digest) -> Path:
        """The file that holds the blob, or would if it were large; for messages and tests."""
        place = self._packs.place_of(digest)
        return place.path if place is not None else self._files.path_of(digest)

    def place_of(self, digest: Digest) -> Place:
        """Where its bytes lie; for tests and repair."""
        place = self._packs.place_of(digest)
        if place is not None:
            return place
        return Place(self._files.path_of(digest), 0, self._files.look_at(digest).size_bytes)

    def has(self, digest: Digest) -> bool:
        return digest in self._packs or self._files.has(digest)

    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        packed, has = self._packs.digests, self._files.has
        return [d for d in dict.fromkeys(digests) if d not in packed and not has(d)]

    # ------------------------------------------------------------------ reading

    def get(self, digest: Digest) -> bytes:
        data = self._packs.get(digest)
        return self._files.get(digest) if data is None else data

    def copy_to(self, digest: Digest, target_fd: int) -> int:
        data = self._packs.get(digest)
        if data is None:
            return self._files.copy_to(digest, target_fd)
        write_all(target_fd, data)
        return len(data)

    def lend(self, digest: Digest, directory_fd: int, name: bytes) -> int | None:
        return None if digest in self._packs else self._files.lend(digest, directory_fd, name)

    def check(self, digest: Digest) -> bool:
        try:
            return self._packs.get(digest) is not None or self._files.check(digest)
        except BlobCorrupt:
            return False

    def read_range(self, digest: Digest, offset: int, size_bytes: int) -> bytes:
        data = self._packs.read_range(digest, offset, size_bytes)
        return self._files.read_range(digest, offset, size_bytes) if data is None else data

    def size_bytes(self, digest: Digest) -> int:
        place = self._packs.place_of(digest)
        return place.size_bytes if place is not None else self._files.look_at(digest).size_bytes

    # ------------------------------------------------------------------ writing

    def put(self, digest: Digest, data: Buffer) -> None:
        if Hasher(data).digest() != digest:
            raise BlobMismatch(digest, f"({len(data):,} bytes) hash to something else")
        try:
            (self._packs if len(data) <= SMALL_BYTES else self._files).put(digest, data)
        except OSError as error:
            raise disk_full(error, self.root, len(data)) or error from error

    def put_small(self, blobs: Sequence[tuple[Digest, Buffer]]) -> None:
        for digest, data in blobs:
            if len(data) > SMALL_BYTES:
                raise BlobMismatch(digest, f"({len(data):,} bytes) are no small blob")
            if Hasher(data).digest() != digest:
                raise BlobMismatch(digest, f"({len(data):,} bytes) hash to something else")
        try:
            self._packs.put_all(blobs)
        except OSError as error:
            need_bytes = sum(len(data) for _, data in blobs)
            raise disk_full(error, self.root, need_bytes) or error from error

    def writer(self, digest: Digest, size_bytes: int) -> BlobWriter:
        if size_bytes <= SMALL_BYTES:
            return _SmallWriter(self, digest, size_bytes)
        return self._files.writer(digest, size_bytes)

    def delete(self, digest: Digest) -> None:
        # Both: a store of version 1 may hold a small blob as a file.
        self._packs.delete(digest)
        self._files.delete(digest)

    def delete_unless_newer(self, digest: Digest, newest_ns: int) -> bool:
        """Deletes the blob unless it was put after `newest_ns` (Unix time)."""
        if digest in self._packs:
            return self._packs.delete_unless_newer(digest, newest_ns)
        try:
            if self._files.look_at(digest).put_ns > newest_ns:
                return False
        except BlobMissing:
            return False
        self._files.delete(digest)
        return True

    def sync(self) -> None:
        self._packs.sync()
        self._files.sync()

    # ------------------------------------------------------------------ upkeep

    def __iter__(self) -> Iterator[Digest]:
        yield from self._packs
        packed = self._packs.digests
        yield from (digest for digest in self._files if digest not in packed)

    def stored(self) -> Iterator[Stored]:
        """Every blob with its size and time."""
        for digest in self:
            try:
                yield self._look_at(digest)
            except BlobMissing:
                continue

    def _look_at(self, digest: Digest) -> Stored:
        place, put_ns = self._packs.place_of(digest), self._packs.put_ns(digest)
        if place is not None and put_ns is not None:
            return Stored(digest, place.size_bytes, put_ns)
        return self._files.look_at(digest)

    def verify(self) -> Iterator[Problem]:
        """Hashes every blob. Yields what is wrong; corrupt blobs are removed as they are found."""
        yield from self._packs.verify()
        yield from self._files.verify()

    def give_back_space(self) -> None:
        """Rewrites what holds many deleted small blobs. Raises StoreFull, SyncFailed."""
        try:
            self._packs.rewrite_sparse()
        except OSError as error:
            raise disk_full(error, self.root, SMALL_BYTES) or error from error

    def remove_temporaries(self, older_than_s: float) -> int:
        """Removes what killed writers left. Returns how many files that were.

        The age protects writers that are at work now, here or in another process.
        """
        return sum(s.remove_temporaries(older_than_s) for s in (self._packs, self._files))


class _SmallWriter:
    """Collects a small blob in memory."""

    def __init__(self, store: BlobStore, digest: Digest, size_bytes: int) -> None:
        self._store = store
        self._digest = digest
        self._size_bytes = size_bytes
        self._data = bytearray()

    def write(self, data: Buffer) -> None:
        if len(self._data) + len(data) > self._size_bytes:
            raise BlobMismatch(self._digest, "are more than were announced")
        self._data += data

    def commit(self) -> None:
        if (left_bytes := self._size_bytes - len(self._data)) > 0:
            raise BlobMismatch(self._digest, f"are {left_bytes:,} fewer than announced")
        self._store.put(self._digest, self._data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._data = bytearray()
