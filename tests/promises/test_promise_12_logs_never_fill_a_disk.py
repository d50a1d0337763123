"""Promise 12: logs never fill a disk; a gap is announced.

A real process writes through a real pipe, the pump and a capped log. By default 300 MB, a line of
100 MB, and 40 MB of bytes that are no text; with DEVLOOP_SOAK=1 10 GB and a line of 1 GB.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from devloop.remote_agent.logs import LogStream, RunLog
from devloop.remote_agent.pump import Pump

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from devloop.remote_agent.logs import LogReader, Record

pytestmark = [pytest.mark.promise(12), pytest.mark.timeout(900)]

MB = 1_000_000
CAP_BYTES = 32 << 20
SOAK = os.environ.get("DEVLOOP_SOAK") == "1"

# Each block starts with its number, so that the bytes at any offset can be told.
BLOCK_BYTES = 1 << 16
BLOCKS = """if True:
    import os, sys
    rest = bytes(range(256)) * 256
    size = int(sys.argv[1])
    for number in range(-(-size // 65536)):
        block = number.to_bytes(8, "big") + rest[8:]
        os.write(1, block[: size - number * 65536])
"""
LINE = """if True:
    import os, sys
    size = int(sys.argv[1])
    while size:
        size -= os.write(1, b"x" * min(size, 1 << 20))
"""


class Kept(NamedTuple):
    records: int
    record_bytes: int
    gaps: int
    dropped_bytes: int


def block_bytes(offset: int, size: int) -> bytes:
    """What BLOCKS writes there."""
    rest = (bytes(range(256)) * 256)[8:]
    first, last = offset // BLOCK_BYTES, (offset + size - 1) // BLOCK_BYTES
    blocks = b"".join(number.to_bytes(8, "big") + rest for number in range(first, last + 1))
    start = offset - first * BLOCK_BYTES
    return blocks[start : start + size]


def line_bytes(offset: int, size: int) -> bytes:
    return b"x" * size


async def produce(log: RunLog, code: str, size_bytes: int) -> None:
    read, write = os.pipe()
    argv = [sys.executable, "-c", code, str(size_bytes)]
    process = subprocess.Popen(argv, stdout=write)
    os.close(write)
    await Pump(log, {read: LogStream.STDOUT}).run()
    log.close()
    assert process.wait() == 0


async def largest_disk_use(log: RunLog, directory: Path, producing: asyncio.Task[None]) -> int:
    """Looks again after every few milliseconds."""
    largest = 0
    while not producing.done():
        await asyncio.wait({producing}, timeout=0.005)
        largest = max(largest, disk_use(directory))
    assert log.closed
    return largest


def disk_use(directory: Path) -> int:
    sizes = [path.stat().st_size for path in directory.glob("*")]
    return sum(sizes)


async def records(reader: LogReader) -> AsyncIterator[Record]:
    with reader:
        async for batch in reader:
            for record in batch:
                yield record


async def check(log: RunLog, expected: object) -> Kept:
    """Every kept byte is the right one for its place, and numbers and bytes add up."""
    assert callable(expected)
    number = offset = count = gaps = dropped_bytes = 0
    async for record in records(log.reader()):
        assert record.number == number
        if record.stream is LogStream.GAP:
            gaps += 1
            dropped_bytes += record.dropped_bytes
            number += record.dropped_records
            offset += record.dropped_bytes
        else:
            assert record.data == expected(offset, len(record.data))
            count += 1
            number += 1
            offset += len(record.data)
    assert (number, offset) == (log.next, log.total_bytes)
    return Kept(count, offset - dropped_bytes, gaps, dropped_bytes)


@pytest.mark.parametrize(
    ("code", "expected", "size_bytes"),
    [
        pytest.param(BLOCKS, block_bytes, 10_000 * MB if SOAK else 300 * MB, id="much output"),
        pytest.param(LINE, line_bytes, 1000 * MB if SOAK else 100 * MB, id="one long line"),
        pytest.param(BLOCKS, block_bytes, 40 * MB + 12_345, id="no text, no final newline"),
    ],
)
async def test_output_of_any_kind_stays_under_the_cap_and_gaps_add_up(
    tmp_path: Path, code: str, expected: object, size_bytes: int
) -> None:
    directory = tmp_path / "log"
    log = RunLog(directory, max_bytes=CAP_BYTES, segment_bytes=1 << 20)
    producing = asyncio.create_task(produce(log, code, size_bytes))
    largest = await largest_disk_use(log, directory, producing)
    await producing
    assert log.total_bytes == size_bytes
    kept = await check(log, expected)
    assert kept == await check(RunLog.open_existing(directory), expected)
    print(f"1 try: {size_bytes / MB:.0f} MB written, {largest / MB:.1f} MB of disk at most; {kept}")
    assert largest <= CAP_BYTES
    assert kept.gaps == 1
    assert kept.record_bytes > CAP_BYTES * 0.9


async def test_a_reader_that_follows_sees_every_byte_or_its_gap(tmp_path: Path) -> None:
    """With readers of three speeds while the program floods."""
    log = RunLog(tmp_path / "log", max_bytes=CAP_BYTES, segment_bytes=1 << 20)
    size_bytes = 1000 * MB if SOAK else 100 * MB

    async def follow(pause_s: float) -> int:
        total = 0
        async for record in records(log.reader()):
            total += len(record.data) + record.dropped_bytes
            if pause_s and record.number % 50 == 0:
                await asyncio.sleep(pause_s)
        return total

    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(follow(pause_s)) for pause_s in (0.0, 0.001, 0.01)]
        tasks.create_task(produce(log, BLOCKS, size_bytes))
    print(f"1 try: 3 readers of {size_bytes / MB:.0f} MB")
    assert [reader.result() for reader in readers] == [size_bytes] * 3
