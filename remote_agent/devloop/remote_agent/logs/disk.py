"""The segments of one log on disk, within a cap: the first is kept, and the newest.

Owns the directory. Knows no reader: who must not lose a segment asks `doomed` beforehand.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from itertools import zip_longest
from typing import TYPE_CHECKING

from .format import (
    HEAD_BYTES,
    HEADER_BYTES,
    Segment,
    encode_header,
    encode_record_head,
    read_header,
    scan_segment,
)

if TYPE_CHECKING:
    from pathlib import Path

    from .format import Record

__all__ = ["LogDisk", "load_segments"]


class LogDisk:
    """Appends records to segments. One writer; all calls come from one thread.

    An error of the file system passes through as OSError and leaves whole records only; the next
    append begins a new segment.
    """

    def __init__(self, directory: Path, *, max_bytes: int, segment_bytes: int) -> None:
        self.directory = directory
        self.segments: list[Segment] = []
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._sealed_bytes = 0  # of every segment but the one being written
        self._fd = -1

    def append(self, record: Record, bytes_before: int) -> None:
        """`bytes_before` counts the output of the run before this record."""
        stored_bytes = HEAD_BYTES + len(record.data)
        if self._fd < 0 or self.segments[-1].size_bytes + stored_bytes > self._segment_bytes:
            self._start_segment(record.number, bytes_before)
        try:
            written = os.writev(self._fd, (encode_record_head(record), record.data))
            if written != stored_bytes:  # the rest would not fit
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._cut_tail()
            raise
        self.segments[-1].grow(stored_bytes)

    def doomed(self, headroom_bytes: int) -> int:
        """Records before this number, the first segment's aside, may go with the next
        `headroom_bytes` of output. Zero when none will."""
        if self._fd < 0 or self.segments[-1].size_bytes + headroom_bytes <= self._segment_bytes:
            return 0
        victims = self._victims(self.segments[-1].size_bytes + headroom_bytes)
        return victims[-1].next if victims else 0

    def segment_at(self, number: int) -> tuple[Segment | None, Segment | None]:
        """The last segment that starts at or before that record, and the one after it."""
        index = bisect_right(self.segments, number, key=lambda segment: segment.first)
        before = self.segments[index - 1] if index else None
        after = self.segments[index] if index < len(self.segments) else None
        return before, after

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._sealed_bytes += self.segments[-1].size_bytes

    def _start_segment(self, first: int, start_bytes: int) -> None:
        self.close()
        for victim in self._victims(0):
            self._drop(victim)
        segment = Segment(self.directory / f"{first:020}.seg", first, start_bytes, first)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self.directory.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(segment.path, flags, 0o600)
        self.segments.append(segment)
        try:
            if os.write(self._fd, encode_header(first, start_bytes)) != HEADER_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._cut_tail()
            raise

    def _victims(self, current_bytes: int) -> list[Segment]:
        """What must go before a new segment may grow to its full size: the oldest but the first."""
        excess = self._sealed_bytes + current_bytes + self._segment_bytes - self._max_bytes
        victims: list[Segment] = []
        for segment in self.segments[1:]:
            if excess <= 0:
                break
            victims.append(segment)
            excess -= segment.size_bytes
        return victims

    def _drop(self, victim: Segment) -> None:
        victim.path.unlink(missing_ok=True)
        self.segments.remove(victim)
        self._sealed_bytes -= victim.size_bytes

    def _cut_tail(self) -> None:
        """Takes back what a failed write left, and gives the segment up."""
        segment = self.segments[-1]
        if segment.next == segment.first:
            os.close(self._fd)
            self._fd = -1
            self.segments.pop()
            segment.path.unlink(missing_ok=True)
            return
        try:
            os.ftruncate(self._fd, segment.size_bytes)
        finally:
            self.close()


def load_segments(directory: Path) -> list[Segment]:
    """The segments of a finished log, oldest first. Changes nothing."""
    paths = sorted(directory.glob("*.seg"))
    headers = [header for path in paths if (header := read_header(path)) is not None]
    return [
        segment
        for segment, after in zip_longest(headers, headers[1:])
        if _fill_in(segment, after) and segment.next > segment.first
    ]


def _fill_in(segment: Segment, after: Segment | None) -> bool:
    """Finds the end of `segment`: by arithmetic where the next one follows it without a hole."""
    size_bytes = segment.path.stat().st_size
    if after is not None:
        records = after.first - segment.first
        data_bytes = after.start_bytes - segment.start_bytes
        if size_bytes == HEADER_BYTES + records * HEAD_BYTES + data_bytes:
            segment.next, segment.size_bytes = after.first, size_bytes
            return True
    scanned = scan_segment(segment.path)
    if scanned is None:
        return False
    segment.next, segment.size_bytes, segment.marks = (
        scanned.next,
        scanned.size_bytes,
        scanned.marks,
    )
    return True
