"""One run's log: numbers the records, keeps them on disk and the newest in memory.

Owns what happens when the disk refuses (the newest records wait in memory, what does not fit there
is lost and announced) and when a reader that may lose nothing falls behind (`ready` blocks).
All calls come from the event loop's thread; no write is ever synced.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from devloop.remote_agent.bell import Bell

from .disk import LogDisk, load_segments
from .format import MAX_RECORD_BYTES, LogError, LogStream, Record
from .memory import RecentRecords
from .reader import LogReader

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RunLog"]

# What may be appended between one `ready` and the next: a read of each of two streams.
HEADROOM_BYTES = 2 * MAX_RECORD_BYTES
MIN_SEGMENT_BYTES = 2 * HEADROOM_BYTES
RETRY_DISK_S = 1.0
# A client that reads nothing slows its program to a record a moment until the disk's share is full.
PATIENCE_S = 0.01


class RunLog:
    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int = 256 << 20,
        segment_bytes: int = 8 << 20,
        memory_bytes: int = 4 << 20,
    ) -> None:
        """A new log; `directory` is made when the first record arrives, if need be.

        Never takes more than `max_bytes` on disk: the first segment and the newest are kept.
        """
        if segment_bytes < MIN_SEGMENT_BYTES or max_bytes < 4 * segment_bytes:
            raise ValueError("a log has at least four segments of 1 MiB")
        self.disk = LogDisk(directory, max_bytes=max_bytes, segment_bytes=segment_bytes)
        self.recent = RecentRecords(memory_bytes)
        self.first = 0
        self.next = 0
        self.total_bytes = 0  # of output, kept or not
        self.closed = False
        self.disk_error: OSError | None = None  # while the disk refuses
        self.grown = Bell()
        self._room = Bell()
        self._readers: set[LogReader] = set()
        self._lossless: set[LogReader] = set()
        self._saved_next = 0  # records before it are on disk, or lost
        self._saved_bytes = 0
        self._retry_at = 0.0

    @classmethod
    def open_existing(cls, directory: Path) -> RunLog:
        """A finished run's log, closed; a torn tail is left out.

        Raises LogError when there is none.
        """
        if not directory.is_dir():
            raise LogError(f"no log at {directory}", hint="`devloop ps` lists the runs with a log")
        log = cls(directory)
        log.closed = True
        log.disk.segments = load_segments(directory)
        if log.disk.segments:
            last = log.disk.segments[-1]
            log.first, log.next = log.disk.segments[0].first, last.next
            log.total_bytes = last.end_bytes
            log.recent.first, log.recent.bytes_before_first = log.next, log.total_bytes
        return log

    def append(self, stream: LogStream, data: bytes, time_ns: int) -> int:
        """Stores one record; returns its number. Never raises for the disk's sake."""
        if self.closed or len(data) > MAX_RECORD_BYTES:
            raise ValueError(f"log is closed, or {len(data)} bytes are no record")
        number = self.next
        self.recent.append(Record(number, time_ns, stream, data))
        self.next += 1
        self.total_bytes += len(data)
        self._save()
        self.recent.shrink()
        self.grown.ring()
        return number

    def reader(
        self, from_record: int = 0, *, lossless: bool = False, follow: bool = True
    ) -> LogReader:
        """Batches of records from that number on; use it in a `with` block.

        `follow` false: ends with what is logged now. A `lossless` reader's unread records are not
        dropped; it slows the program down instead.
        """
        reader = LogReader(self, from_record, follow=follow)
        self._readers.add(reader)
        if lossless:
            self._lossless.add(reader)
        return reader

    async def ready(self) -> None:
        """Awaited before reading more output: blocks while keeping it would cost a lossless
        reader something unread. Good for one record of each of two streams.

        A program that prints faster than its client reads waits a moment each time, so that what
        is read comes from memory: to read it back from the disk halved the rate of both.
        """
        if self._outruns_readers():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self._room.wait()
        while self._would_hurt():
            await self._room.wait()

    def close(self) -> None:
        """No more records will come: readers end when they have read them all."""
        if self.closed:
            return
        self._retry_at = 0.0
        self._save()
        self.closed = True
        self.disk.close()
        self._trim()
        self.grown.ring()
        self._room.ring()

    @property
    def is_read(self) -> bool:
        return bool(self._readers)

    def reader_moved(self) -> None:
        self._room.ring()

    def reader_closed(self, reader: LogReader) -> None:
        self._readers.discard(reader)
        self._lossless.discard(reader)
        self._room.ring()
        self._trim()

    def _outruns_readers(self) -> bool:
        """Will the next records push from memory what a lossless reader has not read?"""
        if not self._lossless or self.recent.cost_bytes + HEADROOM_BYTES <= self.recent.max_bytes:
            return False
        return min(reader.position for reader in self._lossless) <= self.recent.first

    def _would_hurt(self) -> bool:
        if not self._lossless or self.closed:
            return False
        slowest = min(reader.position for reader in self._lossless)
        if self.disk_error is not None:
            full = self.recent.cost_bytes + HEADROOM_BYTES > self.recent.max_bytes
            return full and slowest < self.next
        return slowest < self.disk.doomed(HEADROOM_BYTES)

    def _save(self) -> None:
        if self.disk_error is not None and time.monotonic() < self._retry_at:
            return
        if self._saved_next < self.recent.first:
            self._saved_next = self.recent.first
            self._saved_bytes = self.recent.bytes_before_first
        try:
            while self._saved_next < self.next:
                record = self.recent.get(self._saved_next)
                self.disk.append(record, self._saved_bytes)
                self._saved_next += 1
                self._saved_bytes += len(record.data)
        except OSError as error:
            self.disk_error = error
            self._retry_at = time.monotonic() + RETRY_DISK_S
        else:
            self.disk_error = None

    def _trim(self) -> None:
        """A finished log that nobody reads keeps in memory only what the disk refused."""
        if self.closed and not self._readers:
            self.recent.forget_before(self._saved_next)
