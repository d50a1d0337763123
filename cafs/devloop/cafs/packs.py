"""Small blobs, many to a file: creating a file costs a disk more than writing 2 KiB to one.

Owns the folder of packs: which record is the blob of a digest, to which pack the next one goes, and
which packs are rewritten because most of them is dead. `packfile` documents the formats. Refuses
to know large blobs, trees, and which blobs are still wanted.

Every put is one write to the page cache, so a killed process loses nothing that it was told to
keep. The newest pack is appended to by the process that holds its lock; any other process
begins a pack of its own, and sees what others put once it opens the folder again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from .digest import Digest, Hasher
from .errors import BlobCorrupt, Problem, SyncFailed
from .packfile import PACK_BYTES, RECORD_BYTES, Pack
from .syscalls import flush_file

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator
    from pathlib import Path

    from .blobdir import Buffer

__all__ = ["Packs", "Place"]

_ROW_BITS = 24  # more rows than a pack can have
_ROW_MASK = (1 << _ROW_BITS) - 1
_INDEX_AFTER_BYTES = 4 << 20  # scanning less than this when the pack is opened is cheap
_REWRITE_FROM_BYTES = 1 << 20  # a pack that is appended to and smaller is left to grow


class Place(NamedTuple):
    """Where the bytes of a blob lie."""

    path: Path
    offset: int
    size_bytes: int


class Packs:
    """Readers take no lock. Appends, deletions and rewriting do, and each is short."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory unless it is there. Raises OSError."""
        directory.mkdir(mode=0o700, exist_ok=True)
        self.directory = directory
        self._lock = Lock()
        self._sync_lock = Lock()
        self._packs: dict[int, Pack] = {}
        self._at: dict[bytes, int] = {}  # pack number and row of each blob that is there
        self._open: Pack | None = None  # the one that is appended to
        self._unsynced: list[Digest] = []
        self._touched: set[int] = set()
        self._load()

    def _load(self) -> None:
        paths = [path for path in self.directory.glob("*.pack") if path.stem.isdecimal()]
        packs = sorted(map(Pack, paths), key=lambda pack: pack.number)
        is_mine = bool(packs) and packs[-1].lock()
        for pack in packs:
            pack.load()
            self._adopt(pack)
        if is_mine:
            packs[-1].cut_tail()
            self._open = packs[-1]

    def _adopt(self, pack: Pack) -> None:
        """A blob that two packs hold is the later one's."""
        self._packs[pack.number] = pack
        first = pack.number << _ROW_BITS
        self._at.update(zip(pack.digests, range(first, first + len(pack.digests)), strict=True))

    def close(self) -> None:
        """Idempotent."""
        self._refresh_indexes(list(self._packs.values()), after_bytes=0)
        with self._lock:
            packs, self._packs, self._at, self._open = self._packs, {}, {}, None
        for pack in packs.values():
            pack.close()

    # ------------------------------------------------------------------ looking

    @property
    def digests(self) -> Container[bytes]:
        """For many questions at once: a look-up in it is the fastest there is."""
        return self._at

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._at

    def __iter__(self) -> Iterator[Digest]:
        return map(Digest, list(self._at))

    def __len__(self) -> int:
        return len(self._at)

    def _find(self, digest: Digest) -> tuple[Pack, int] | None:
        """The reference keeps the pack's descriptor open."""
        at = self._at.get(digest)
        while at is not None:
            pack = self._packs.get(at >> _ROW_BITS)
            if pack is not None:
                return pack, at & _ROW_MASK
            moved = self._at.get(digest)  # rewritten between the two look-ups
            at = moved if moved != at else None
        return None

    def place_of(self, digest: Digest) -> Place | None:
        found = self._find(digest)
        if found is None:
            return None
        pack, row = found
        return Place(pack.path, pack.offsets[row], pack.sizes[row])

    def put_ns(self, digest: Digest) -> int | None:
        found = self._find(digest)
        return found[0].put_ns[found[1]] if found is not None else None

    # ------------------------------------------------------------------ reading

    def get(self, digest: Digest) -> bytes | None:
        """None when it is not there. Raises BlobCorrupt, and then it is not there any more."""
        found = self._find(digest)
        if found is None:
            return None
        pack, row = found
        try:
            data = pack.read(row)
        except OSError as error:
            raise self._unreadable(digest, pack, row, error) from error
        if Hasher(data).digest() != digest:
            if self._at.get(digest) != _at(pack, row):
                return self.get(digest)  # moved or deleted, and its old place given back
            raise self._drop_corrupt(digest, pack, row, "does not hash to its name")
        return data

    def read_range(self, digest: Digest, offset: int, size_bytes: int) -> bytes | None:
        """Unverified. None when the blob is not there."""
        found = self._find(digest)
        if found is None:
            return None
        pack, row = found
        try:
            return pack.read_range(row, offset, size_bytes)
        except OSError as error:
            raise self._unreadable(digest, pack, row, error) from error

    def _unreadable(self, digest: Digest, pack: Pack, row: int, error: OSError) -> Exception:
        if error.errno != errno.EIO:
            return error
        return self._drop_corrupt(digest, pack, row, "cannot be read from the disk")

    def _drop_corrupt(self, digest: Digest, pack: Pack, row: int, reason: str) -> BlobCorrupt:
        with self._lock:
            self._kill(digest, _at(pack, row))
        return BlobCorrupt(pack.path, digest, reason)

    # ------------------------------------------------------------------ writing

    def put(self, digest: Digest, data: Buffer) -> None:
        """`data` was verified by the caller. Raises OSError, and then nothing has changed."""
        at = self._at.get(digest)
        is_good = at is not None and self._holds(digest, data)
        with self._lock:
            now = self._at.get(digest)
            if now is None or (now == at and not is_good):
                self._append(digest, data, time.time_ns())
                if at is not None and now is not None:
                    self._packs[at >> _ROW_BITS].kill(at & _ROW_MASK)
            else:  # it was good, or another thread has put it meanwhile
                self._refresh(digest, now)

    def put_all(self, blobs: Iterable[tuple[Digest, Buffer]]) -> None:
        """As `put` of each, with one write for those that are new. Raises OSError, and then none
        of those is there."""
        new: dict[Digest, Buffer] = {}
        for digest, data in blobs:
            if digest in self._at:
                self.put(digest, data)
            else:
                new[digest] = data
        if not new:
            return
        with self._lock:
            # Another thread may have put one meanwhile: then the later record counts.
            pack = self._pack_to_append()
            first = _at(pack, pack.append_all(new.items(), time.time_ns()))
            self._at.update(zip(new, range(first, first + len(new)), strict=True))
            self._unsynced += new
            self._touched.add(pack.number)

    def _holds(self, digest: Digest, data: Buffer) -> bool:
        found = self._find(digest)
        try:
            return found is not None and found[0].holds(found[1], data)
        except OSError:
            return False

    def _append(self, digest: Digest, data: Buffer, put_ns: int) -> None:
        pack = self._pack_to_append()
        self._at[digest] = _at(pack, pack.append(digest, data, put_ns))
        self._note_unsynced(pack, digest)

    def _refresh(self, digest: Digest, at: int) -> None:
        """Put again: new to garbage collection, and to be synced, as a killed process may have
        put it without."""
        pack = self._packs[at >> _ROW_BITS]
        pack.put_ns[at & _ROW_MASK] = time.time_ns()
        self._note_unsynced(pack, digest)

    def _note_unsynced(self, pack: Pack, digest: Digest) -> None:
        self._unsynced.append(digest)
        self._touched.add(pack.number)

    def _pack_to_append(self) -> Pack:
        if self._open is not None and self._open.end < PACK_BYTES:
            return self._open
        if self._open is not None:
            self._write_index(self._open)
        self._open = self._create_pack()
        return self._open

    def _create_pack(self) -> Pack:
        number = max(self._packs, default=0) + 1
        while True:
            try:
                pack = Pack(self.directory / f"{number:08d}.pack", create=True)
            except FileExistsError:
                number += 1  # another process was faster
                continue
            pack.lock()
            self._packs[number] = pack
            return pack

    def delete(self, digest: Digest) -> bool:
        """Was it there?"""
        with self._lock:
            at = self._at.get(digest)
            return at is not None and self._kill(digest, at)

    def delete_unless_newer(self, digest: Digest, newest_ns: int) -> bool:
        with self._lock:
            at = self._at.get(digest)
            if at is None or self._packs[at >> _ROW_BITS].put_ns[at & _ROW_MASK] > newest_ns:
                return False
            return self._kill(digest, at)

    def _kill(self, digest: Digest, at: int) -> bool:
        """Not the record of a blob that was put again since."""
        if self._at.get(digest) != at:
            return False
        del self._at[digest]
        self._packs[at >> _ROW_BITS].kill(at & _ROW_MASK)
        return True

    # ------------------------------------------------------------------ durability

    def sync(self) -> None:
        """Raises SyncFailed, and then what was put since the last sync is not there any more."""
        with self._sync_lock:
            with self._lock:
                batch, self._unsynced = self._unsynced, []
                touched = [self._packs[n] for n in self._touched if n in self._packs]
                self._touched = set()
            try:
                self._flush(touched)
            except OSError as error:
                self._abandon(batch)
                reason = error.strerror or str(error)
                raise SyncFailed(self.directory, len(set(batch)), reason) from error
            self._refresh_indexes(touched)

    def _flush(self, packs: list[Pack]) -> None:
        for pack in packs:
            flush_file(pack.fd)
        if packs:
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                flush_file(fd)
            finally:
                os.close(fd)

    def _abandon(self, batch: list[Digest]) -> None:
        """The kernel may have dropped the dirty pages: a second fsync would report success."""
        with self._lock:
            self._open = None  # nothing more is put beside what the disk refused
        for digest in batch:
            self.delete(digest)

    def _refresh_indexes(self, packs: list[Pack], after_bytes: int = _INDEX_AFTER_BYTES) -> None:
        for pack in packs:
            with self._lock:
                if pack.end - pack.indexed_bytes > after_bytes and pack.number in self._packs:
                    self._write_index(pack)

    def _write_index(self, pack: Pack) -> None:
        pack.write_index(self._live_rows(pack))

    def _live_rows(self, pack: Pack) -> list[int]:
        at, first = self._at.get, pack.number << _ROW_BITS
        return [row for row, digest in enumerate(pack.digests) if at(digest) == first + row]

    # ------------------------------------------------------------------ upkeep

    def verify(self) -> Iterator[Problem]:
        """Hashes every blob; corrupt ones are dropped as they are found."""
        for digest in self:
            try:
                self.get(digest)
            except BlobCorrupt as error:
                yield Problem(error.path, f"blob {digest.short} is damaged; removed")

    def remove_temporaries(self, older_than_s: float) -> int:
        """Indexes that a killed process was writing. Returns how many there were."""
        newest = time.time() - older_than_s
        removed = 0
        for path in self.directory.glob(".tmp-*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime <= newest:
                    path.unlink()
                    removed += 1
        return removed

    def rewrite_sparse(self) -> None:
        """Gives back the space of dead records: afterwards they take at most a third of what
        the live ones do, and the pack that is appended to.

        Raises OSError, SyncFailed.
        """
        # What needs no copies goes first: it makes the room that the others need.
        for pack in sorted(self._sparse(), key=lambda p: (self._live_bytes(p) > 0, p.number)):
            self._rewrite(pack)
        self._refresh_indexes(list(self._packs.values()))

    def _sparse(self) -> list[Pack]:
        chosen = []
        for pack in list(self._packs.values()):
            if pack is self._open and pack.end < _REWRITE_FROM_BYTES:
                continue
            if 4 * (pack.end - self._live_bytes(pack)) >= pack.end and pack.lock():
                chosen.append(pack)
                self._seal(pack)
        return [pack for pack in chosen if not pack.has_grown()]

    def _seal(self, pack: Pack) -> None:
        with self._lock:
            if self._open is pack:
                self._open = None

    def _live_bytes(self, pack: Pack) -> int:
        return sum(pack.sizes[row] + RECORD_BYTES for row in self._live_rows(pack))

    def _rewrite(self, pack: Pack) -> None:
        try:
            for row in self._live_rows(pack):
                self._move(pack, row)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._rewrite_in_memory(pack)
        # The copies are durable before the originals go.
        self.sync()
        with self._lock:
            if not self._live_rows(pack):
                del self._packs[pack.number]
                pack.unlink()
                pack.close()

    def _move(self, pack: Pack, row: int) -> None:
        digest = Digest(pack.digests[row])
        try:
            data = self.get(digest)
        except BlobCorrupt:
            return
        with self._lock:
            if data is not None and self._at.get(digest) == _at(pack, row):
                self._append(digest, data, pack.put_ns[row])

    def _rewrite_in_memory(self, pack: Pack) -> None:
        """On a full disk: the space of the originals makes room for the copies. A loss of power at
        this moment loses them, and then they are missing."""
        with self._lock:
            rows = self._live_rows(pack)
            blobs = [(Digest(pack.digests[row]), pack.read(row), pack.put_ns[row]) for row in rows]
            pack.empty()
            for digest, _, _ in blobs:
                del self._at[digest]
            for digest, data, put_ns in blobs:
                self._append(digest, data, put_ns)


def _at(pack: Pack, row: int) -> int:
    return pack.number << _ROW_BITS | row
