"""One pack: a file of small blobs one after another, and the index file beside it.

Owns both formats, and reads and writes at places. Refuses to know which of its records are wanted
and whether their bytes are what they were: `packs` does. Integers are little-endian.

NNNNNNNN.pack, records without gaps
    4   "dlpR", or "dlpX" once the blob was deleted or found corrupt
    4   size of the blob
    8   when it was put, Unix time in ns, signed
    32  digest
    4   CRC-32 of the three fields before
    …   the blob
NNNNNNNN.index, what a scan of the pack would find, so that opening need not scan
    8   "dlpIdx1\\n"
    8   how many bytes of the pack it covers; records behind them are found by scanning
    8   n, the number of records; "dlpX" records are left out
    32n digests, 4n offsets of the blobs in the pack, 4n sizes, 8n times of put
    32  BLAKE3 of everything before

A record is whole or not there: what a kill or a loss of power left of one fails the scan, which
goes on at the next header that holds. An index is a hint: whatever is wrong with it, it is ignored
and the pack is scanned.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import weakref
from array import array
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from .digest import DIGEST_BYTES, Hasher

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from .blobdir import Buffer

__all__ = ["MAX_BLOB_BYTES", "PACK_BYTES", "RECORD_BYTES", "Pack", "Record", "records_in"]

MAX_BLOB_BYTES = 64 << 10
PACK_BYTES = 64 << 20  # a pack of this size takes no more records
_LIVE, _DEAD = b"dlpR", b"dlpX"
_HEADER = struct.Struct("<4sIq32sI")
_FIELDS = struct.Struct("<Iq32s")  # what the checksum covers
_CHECKSUM = struct.Struct("<I")
RECORD_BYTES = _HEADER.size  # what a record takes besides its blob
_INDEX_MAGIC = b"dlpIdx1\n"
_INDEX_HEAD = struct.Struct("<8sQQ")
_BLOCK_BYTES = 1 << 20
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Record(NamedTuple):
    digest: bytes
    offset: int  # of the blob
    size_bytes: int
    put_ns: int
    is_live: bool


class Pack:
    """Rows are numbered in the order of the records; a row never changes its place.

    Readers need no lock. Appending, `kill` and `write_index` are for one thread at a time.
    The number of the descriptor is free again with the last reference only, so that a reader never
    meets another file.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Knows no row before `load`. Raises OSError; FileExistsError for a new pack that is
        there."""
        self.path = path
        self.number = int(path.stem)
        self.fd = os.open(path, _CREATE if create else _OPEN, 0o600)
        weakref.finalize(self, os.close, self.fd)
        self.digests: list[bytes] = []
        self.offsets = array("I")
        self.sizes = array("I")
        self.put_ns = array("q")
        self.end = 0
        self.indexed_bytes = 0  # what the index file covers

    def close(self) -> None:
        """Gives up the lock, and the space of a file that was removed. Reads find nothing then."""
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, self.fd, inheritable=False)
        os.close(nothing)

    @property
    def index_path(self) -> Path:
        return self.path.with_suffix(".index")

    def lock(self) -> bool:
        """Takes the right to append, and to remove the pack. False when another has it."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def has_grown(self) -> bool:
        """Has another process appended since this one loaded the pack?"""
        return os.fstat(self.fd).st_size > self.end

    def cut_tail(self) -> None:
        """Only with the lock held since before `load`: the tail is another's record else."""
        if self.has_grown():
            os.ftruncate(self.fd, self.end)
        if not self.indexed_bytes:
            # One that was no good now must not seem good once the pack has grown.
            self.index_path.unlink(missing_ok=True)

    # ------------------------------------------------------------------ records

    def append(self, digest: bytes, data: Buffer, put_ns: int) -> int:
        """Returns the row. After an OSError the pack is as before."""
        fields = _FIELDS.pack(len(data), put_ns, digest)
        record = b"".join((_LIVE, fields, _CHECKSUM.pack(crc32(fields)), data))
        if os.pwrite(self.fd, record, self.end) != len(record):
            self._append_rest(record)
        return self._add(digest, self.end + RECORD_BYTES, len(data), put_ns)

    def append_all(self, blobs: Iterable[tuple[bytes, Buffer]], put_ns: int) -> int:
        """In one write. Returns the first row. After an OSError the pack is as before."""
        blobs = list(blobs)
        parts: list[Buffer] = []
        for digest, data in blobs:
            fields = _FIELDS.pack(len(data), put_ns, digest)
            parts += (_LIVE, fields, _CHECKSUM.pack(crc32(fields)), data)
        records, first = b"".join(parts), len(self.digests)
        if os.pwrite(self.fd, records, self.end) != len(records):
            self._append_rest(records)
        for digest, data in blobs:
            self._add(digest, self.end + RECORD_BYTES, len(data), put_ns)
        return first

    def _append_rest(self, record: bytes) -> None:
        """A short write is how a disk that runs full begins to say so."""
        written = 0
        try:
            while written < len(record):
                written += os.pwrite(self.fd, record[written:], self.end + written)
        except OSError:
            os.ftruncate(self.fd, self.end)
            raise

    def _add(self, digest: bytes, offset: int, size_bytes: int, put_ns: int) -> int:
        self.digests.append(digest)
        self.offsets.append(offset)
        self.sizes.append(size_bytes)
        self.put_ns.append(put_ns)
        self.end = offset + size_bytes
        return len(self.digests) - 1

    def read(self, row: int) -> bytes:
        """Unverified, and shorter than it should be where the file was cut."""
        return os.pread(self.fd, self.sizes[row], self.offsets[row])

    def holds(self, row: int, data: Buffer) -> bool:
        """Is that the blob, and its header whole? Without it only the index knows the record."""
        size_bytes = RECORD_BYTES + self.sizes[row]
        record = os.pread(self.fd, size_bytes, self.offsets[row] - RECORD_BYTES)
        found = _record_at(record, 0) if len(record) == size_bytes else None
        return found is not None and found.is_live and record[RECORD_BYTES:] == data

    def read_range(self, row: int, offset: int, size_bytes: int) -> bytes:
        size_bytes = max(0, min(size_bytes, self.sizes[row] - offset))
        return os.pread(self.fd, size_bytes, self.offsets[row] + offset)

    def empty(self) -> None:
        """Gives back the space of every record."""
        self._forget_index()
        os.ftruncate(self.fd, 0)
        self.end = 0

    def kill(self, row: int) -> None:
        """Marks the record as dead. Should the mark be lost, the record is back when the pack is
        next opened: it is verified before use like any other."""
        with contextlib.suppress(OSError):
            self._forget_index()
            os.pwrite(self.fd, _DEAD, self.offsets[row] - RECORD_BYTES)

    # ------------------------------------------------------------------ opening

    def load(self) -> None:
        size_bytes = os.fstat(self.fd).st_size
        self._load_index(size_bytes)
        for record in self._scan(self.end, size_bytes):
            if record.is_live:
                self._add(*record[:4])
            else:
                self.end = record.offset + record.size_bytes

    def _scan(self, start: int, stop: int) -> Iterator[Record]:
        """The records in that part of the file, a block at a time."""
        while start < stop:
            block = self._block(start, min(_BLOCK_BYTES, stop - start))
            is_last = start + len(block) >= stop
            # A record that begins up to here is whole in this block, if it is whole at all.
            limit = len(block) if is_last else len(block) - RECORD_BYTES - MAX_BLOB_BYTES
            end = 0
            for record in records_in(block, limit, start):
                yield record
                end = record.offset + record.size_bytes
            start = max(end, start + limit)

    def _block(self, start: int, size_bytes: int) -> bytes:
        """That part of the file, with zeros for what cannot be read."""
        try:
            return os.pread(self.fd, size_bytes, start).ljust(size_bytes, b"\0")
        except OSError:
            return bytes(size_bytes)

    def _load_index(self, pack_bytes: int) -> None:
        try:
            data = self.index_path.read_bytes()
            magic, covered, n = _INDEX_HEAD.unpack_from(data)
        except (OSError, struct.error):
            return
        body, checksum = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
        if magic != _INDEX_MAGIC or covered > pack_bytes or Hasher(body).digest() != checksum:
            return
        at = _INDEX_HEAD.size + DIGEST_BYTES * n
        self.digests += struct.unpack_from("32s" * n, body, _INDEX_HEAD.size)
        for column in (self.offsets, self.sizes, self.put_ns):
            column.frombytes(body[at : at + n * column.itemsize])
            at += n * column.itemsize
            _to_little_endian(column)
        self.end = self.indexed_bytes = covered

    def write_index(self, rows: Sequence[int]) -> None:
        """Covers the pack as it is now; `rows` are those alive. A full disk leaves no index."""
        columns = [array(c.typecode, map(c.__getitem__, rows)) for c in self._columns()]
        for column in columns:
            _to_little_endian(column)
        parts = [
            _INDEX_HEAD.pack(_INDEX_MAGIC, self.end, len(rows)),
            b"".join(map(self.digests.__getitem__, rows)),
            *(column.tobytes() for column in columns),
        ]
        body = b"".join(parts)
        temp = self.path.with_name(f".tmp-{os.getpid()}-{self.path.stem}")
        try:
            temp.write_bytes(body + Hasher(body).digest())
            temp.replace(self.index_path)
            self.indexed_bytes = self.end
        except OSError:
            temp.unlink(missing_ok=True)

    def _columns(self) -> tuple[array[int], array[int], array[int]]:
        return self.offsets, self.sizes, self.put_ns

    def _forget_index(self) -> None:
        if self.indexed_bytes:
            self.indexed_bytes = 0
            self.index_path.unlink(missing_ok=True)

    def unlink(self) -> None:
        self.index_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def records_in(data: bytes, limit: int, start: int = 0) -> Iterator[Record]:
    """The whole records that begin up to `limit`, dead ones too; what lies between is skipped.

    `data` begins at `start` of the file.
    """
    at, limit = 0, min(limit, len(data) - RECORD_BYTES)
    while 0 <= at <= limit:
        record = _record_at(data, at, start)
        if record is None:
            at = data.find(_LIVE[:3], at + 1)
        else:
            yield record
            at = record.offset + record.size_bytes - start


def _record_at(data: bytes, at: int, start: int = 0) -> Record | None:
    magic, size_bytes, put_ns, digest, checksum = _HEADER.unpack_from(data, at)
    begin = at + RECORD_BYTES
    if magic not in (_LIVE, _DEAD) or size_bytes > MAX_BLOB_BYTES or begin + size_bytes > len(data):
        return None
    if crc32(data[at + 4 : begin - 4]) != checksum:
        return None
    return Record(digest, start + begin, size_bytes, put_ns, magic == _LIVE)


def _to_little_endian(column: array[int]) -> None:
    if sys.byteorder == "big":
        column.byteswap()
