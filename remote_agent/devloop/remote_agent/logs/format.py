"""Log records and their form on disk. Knows one segment file at a time.

Format, version 1 (all integers big-endian). A log is a directory of segments, `<first>.seg` with
the number of its first record in 20 digits.
    segment = magic first:u64 start_bytes:u64 crc:u32 record*
    magic   = "dllog" 0x00 0x00 0x01
    crc     = CRC-32 of what stands before it in the header
    record  = length:u32 time_ns:i64 stream:u8 crc:u32 data
    crc     = CRC-32 of the 13 bytes before it and of data; initial value: number mod 2^32
    length  = bytes of data, at most 262,144
Records are numbered one by one from `first`; a record is therefore valid in its own place only.
`start_bytes` counts the bytes of data of all records before the segment, kept or not: the size of
a hole between two segments is exact without anything having been written about it.
The first record that does not check out ends its segment (a torn tail).
GAP records are made for readers and never stored.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from devloop.cafs.errors import DevloopError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "MAX_RECORD_BYTES",
    "Cursor",
    "LogError",
    "LogStream",
    "Record",
    "Segment",
    "encode_header",
    "encode_record_head",
    "read_records",
    "scan_segment",
]

MAGIC = b"dllog\x00\x00\x01"
MAX_RECORD_BYTES = 256 << 10
WINDOW_BYTES = 512 << 10
BATCH_BYTES = 512 << 10
# What a record costs in a batch or in memory, beside its data.
RECORD_COST_BYTES = 256
MARK_EVERY_BYTES = 256 << 10

_HEADER = struct.Struct(">8sQQ")
_CRC = struct.Struct(">I")
_FIELDS = struct.Struct(">IqB")
HEADER_BYTES = _HEADER.size + _CRC.size
HEAD_BYTES = _FIELDS.size + _CRC.size  # of a record


class LogError(DevloopError):
    """A run's log cannot be read or written as asked."""


class LogStream(IntEnum):
    STDOUT = 1  # also everything of a terminal
    STDERR = 2
    DEVLOOP = 3
    GAP = 4


class Record(NamedTuple):
    """A piece of output as it was read, not a line."""

    number: int
    time_ns: int
    stream: LogStream
    data: bytes
    dropped_records: int = 0  # of a GAP: the numbers from `number` on that are gone
    dropped_bytes: int = 0


class Cursor(NamedTuple):
    """Where in a segment the record of that number starts."""

    number: int
    offset: int


@dataclass(slots=True)
class Segment:
    """What is known of one segment file; `next` and `size_bytes` grow while it is written."""

    path: Path
    first: int
    start_bytes: int
    next: int
    size_bytes: int = HEADER_BYTES  # of the file, its header included
    marks: list[Cursor] = field(default_factory=list)

    @property
    def end_bytes(self) -> int:
        """Bytes of output up to the segment's end, counted from the start of the run."""
        return self.bytes_before(Cursor(self.next, self.size_bytes))

    def bytes_before(self, cursor: Cursor) -> int:
        heads = HEAD_BYTES * (cursor.number - self.first)
        return self.start_bytes + cursor.offset - HEADER_BYTES - heads

    def seek(self, number: int) -> Cursor:
        """The nearest known place at or before that record."""
        index = bisect_right(self.marks, number, key=lambda mark: mark.number)
        return self.marks[index - 1] if index else Cursor(self.first, HEADER_BYTES)

    def grow(self, stored_bytes: int) -> None:
        """Takes note of one more record."""
        last_mark = self.marks[-1].offset if self.marks else HEADER_BYTES
        if self.size_bytes - last_mark >= MARK_EVERY_BYTES:
            self.marks.append(Cursor(self.next, self.size_bytes))
        self.next += 1
        self.size_bytes += stored_bytes


def encode_header(first: int, start_bytes: int) -> bytes:
    header = _HEADER.pack(MAGIC, first, start_bytes)
    return header + _CRC.pack(crc32(header))


def encode_record_head(record: Record) -> bytes:
    fields = _FIELDS.pack(len(record.data), record.time_ns, record.stream)
    return fields + _CRC.pack(_record_crc(record.number, fields, record.data))


def _record_crc(number: int, fields: bytes, data: bytes) -> int:
    return crc32(data, crc32(fields, number & 0xFFFFFFFF))


def read_records(path: Path, start: Cursor, end: int, wanted: int) -> tuple[list[Record], Cursor]:
    """Records from number `wanted` on, at most one batch of them, and the place after the last.

    `end` is the size of the file as far as it is written. No records come back when the bytes at
    the returned place are not a record. Raises FileNotFoundError when the segment was dropped.
    """
    cursor = start
    records: list[Record] = []
    with path.open("rb", buffering=0) as file:
        while not records and cursor.offset < end:
            size_bytes = min(WINDOW_BYTES, end - cursor.offset)
            window = os.pread(file.fileno(), size_bytes, cursor.offset)
            before = cursor
            records, cursor = _decode(window, cursor, wanted)
            if cursor == before:
                break
    return records, cursor


def _decode(window: bytes, start: Cursor, wanted: int) -> tuple[list[Record], Cursor]:
    records: list[Record] = []
    number, at = start.number, 0
    room = BATCH_BYTES - RECORD_COST_BYTES
    while room >= 0 and (data_at := at + HEAD_BYTES) <= len(window):
        length, time_ns, stream = _FIELDS.unpack_from(window, at)
        if length > MAX_RECORD_BYTES or data_at + length > len(window):
            break
        data = window[data_at : data_at + length]
        (crc,) = _CRC.unpack_from(window, at + _FIELDS.size)
        if crc != _record_crc(number, window[at : at + _FIELDS.size], data):
            break
        if number >= wanted:
            records.append(Record(number, time_ns, _STREAMS[stream], data))
            room -= length + RECORD_COST_BYTES
        number += 1
        at = data_at + length
    return records, Cursor(number, start.offset + at)


_STREAMS = {stream.value: stream for stream in LogStream}


def scan_segment(path: Path) -> Segment | None:
    """The segment with everything in it checked, up to a torn tail; None when even its header is.

    Only one window of it is in memory at a time.
    """
    segment = read_header(path)
    if segment is None:
        return None
    file_bytes = path.stat().st_size
    cursor = Cursor(segment.first, HEADER_BYTES)
    while cursor.offset < file_bytes:
        segment.marks.append(cursor)
        records, after = read_records(path, cursor, file_bytes, cursor.number)
        if not records:
            break
        cursor = after
    segment.next, segment.size_bytes = cursor
    return segment


def read_header(path: Path) -> Segment | None:
    """The segment without its records: `next` and `size_bytes` are those of an empty one."""
    with path.open("rb", buffering=0) as file:
        header = file.read(HEADER_BYTES)
    if len(header) != HEADER_BYTES:
        return None
    magic, first, start_bytes = _HEADER.unpack_from(header)
    (crc,) = _CRC.unpack_from(header, _HEADER.size)
    if magic != MAGIC or crc != crc32(header[: _HEADER.size]):
        return None
    return Segment(path, first, start_bytes, first)
