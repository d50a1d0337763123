"""The newest records of a log, in memory. Knows no disk."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .format import BATCH_BYTES, RECORD_COST_BYTES

if TYPE_CHECKING:
    from .format import Record

__all__ = ["RecentRecords"]


class RecentRecords:
    """Consecutive records, bounded by what they cost in memory once `shrink` was called."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.cost_bytes = 0
        self.first = 0
        self.bytes_before_first = 0  # of output, since the start of the run
        self._records: deque[Record] = deque()

    def append(self, record: Record) -> None:
        """`record` follows the last one."""
        self._records.append(record)
        self.cost_bytes += len(record.data) + RECORD_COST_BYTES

    def shrink(self) -> None:
        """The oldest go."""
        while self.cost_bytes > self.max_bytes and len(self._records) > 1:
            self._evict()

    def _evict(self) -> None:
        record = self._records.popleft()
        self.cost_bytes -= len(record.data) + RECORD_COST_BYTES
        self.first = record.number + 1
        self.bytes_before_first += len(record.data)

    def forget_before(self, number: int) -> None:
        while self._records and self.first < number:
            self._evict()

    def get(self, number: int) -> Record:
        return self._records[number - self.first]

    def batch(self, number: int) -> list[Record]:
        """From that record on, up to BATCH_BYTES; empty when it is not here."""
        batch: list[Record] = []
        if number < self.first:
            return batch
        room = BATCH_BYTES
        for index in range(number - self.first, len(self._records)):
            record = self._records[index]
            room -= len(record.data) + RECORD_COST_BYTES
            if room < 0:
                break
            batch.append(record)
        return batch

    def bytes_before(self, number: int) -> int:
        """Of output, since the start of the run; `number` is here, or follows the last record."""
        records = (self._records[index] for index in range(number - self.first))
        return self.bytes_before_first + sum(len(record.data) for record in records)
