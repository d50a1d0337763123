"""One reader's way through a log: from memory, from a segment, or over a hole.

Owns its position and nothing else; a slow reader costs one batch of memory.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .format import Cursor, LogStream, Record, Segment, read_records

if TYPE_CHECKING:
    from types import TracebackType

    from .runlog import RunLog

__all__ = ["LogReader"]


class LogReader:
    """An async iterator over batches (lists of records, at most 512 KiB each).

    Where records are gone there is one GAP record with exact figures. When reading begins inside a
    hole, `dropped_bytes` is that of the whole hole: more is not known. Cancelling loses nothing:
    the position moves only when a batch is handed out.
    """

    def __init__(self, log: RunLog, from_record: int, *, follow: bool) -> None:
        self.position = from_record
        self._log = log
        self._stop_at = None if follow else log.next
        self._closed = False
        self._bytes: int | None = None  # of output before `position`, once known
        self._cursor: tuple[Segment, Cursor] | None = None

    def __enter__(self) -> LogReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> LogReader:
        return self

    def close(self) -> None:
        """The log no longer waits for this reader."""
        self._closed = True
        self._log.reader_closed(self)

    async def __anext__(self) -> list[Record]:
        while not self._at_end():
            if self.position >= self._log.next:
                await self._log.grown.wait()
            elif batch := await self._next_batch():
                self._advance(batch)
                return batch
        self.close()
        raise StopAsyncIteration

    def _at_end(self) -> bool:
        if self._closed:
            return True
        if self._stop_at is not None and self.position >= self._stop_at:
            return True
        return self._log.closed and self.position >= self._log.next

    def _advance(self, batch: list[Record]) -> None:
        if self._bytes is not None:
            self._bytes += sum(len(record.data) + record.dropped_bytes for record in batch)
        last = batch[-1]
        self.position = last.number + (last.dropped_records or 1)
        self._log.reader_moved()

    async def _next_batch(self) -> list[Record]:
        """Empty when the segment went away meanwhile."""
        recent = self._log.recent
        if batch := recent.batch(self.position):
            if self._bytes is None:
                self._bytes = recent.bytes_before(self.position)
            return batch
        before, after = self._log.disk.segment_at(self.position)
        if before is None or before.next <= self.position:
            return [self._gap(before, after)]
        return await self._read_segment(before)

    async def _read_segment(self, segment: Segment) -> list[Record]:
        known = self._cursor
        if known is not None and known[0] is segment and known[1].number == self.position:
            start = known[1]
        else:
            start = segment.seek(self.position)
        arguments = (segment.path, start, segment.size_bytes, self.position)
        try:
            records, cursor = await asyncio.to_thread(read_records, *arguments)
        except FileNotFoundError:
            return []
        self._cursor = segment, cursor
        if not records:
            return [self._damage(segment, cursor)]
        data_bytes = sum(len(record.data) for record in records)
        self._bytes = segment.bytes_before(cursor) - data_bytes
        return records

    def _gap(self, before: Segment | None, after: Segment | None) -> Record:
        """Nothing holds the position: over the hole to what comes next, on disk or in memory."""
        recent = self._log.recent
        end, end_bytes = recent.first, recent.bytes_before_first
        if after is not None and after.first < end:
            end, end_bytes = after.first, after.start_bytes
        start_bytes = self._bytes
        if start_bytes is None:
            start_bytes = before.end_bytes if before is not None else 0
        return self._gap_record(end, end_bytes - start_bytes)

    def _damage(self, segment: Segment, cursor: Cursor) -> Record:
        """The rest of the segment does not check out: it counts as dropped."""
        return self._gap_record(segment.next, segment.end_bytes - segment.bytes_before(cursor))

    def _gap_record(self, end: int, dropped_bytes: int) -> Record:
        dropped = end - self.position
        return Record(self.position, 0, LogStream.GAP, b"", dropped, dropped_bytes)
