"""RunLog: numbers, the cap, holes, readers of every speed, back-pressure, a disk that refuses."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devloop.remote_agent.logs import LogError, LogStream, Record, RunLog
from devloop.remote_agent.logs import runlog as runlog_module
from devloop.remote_agent.logs.format import (
    HEADER_BYTES,
    Cursor,
    encode_header,
    encode_record_head,
    read_records,
    scan_segment,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
OUT = LogStream.STDOUT


def small_log(directory: Path) -> RunLog:
    return RunLog(directory, max_bytes=4 * MIB, segment_bytes=MIB, memory_bytes=MIB)


def piece(number: int, size_bytes: int = 100_000) -> bytes:
    return (b"%08d" % number) * (size_bytes // 8)


def fill(log: RunLog, count: int, size_bytes: int = 100_000) -> None:
    for number in range(log.next, log.next + count):
        log.append(OUT, piece(number, size_bytes), 1000 + number)


async def read_all(log: RunLog, from_record: int = 0) -> list[Record]:
    with log.reader(from_record, follow=False) as reader:
        return [record async for batch in reader for record in batch]


def assert_consistent(log: RunLog, records: list[Record], from_record: int = 0) -> None:
    """Numbers follow each other, kept pieces are exact, and holes and pieces add up."""
    number = from_record
    for record in records:
        assert record.number == number
        if record.stream is LogStream.GAP:
            number += record.dropped_records
        else:
            assert record.data == piece(number, len(record.data))
            number += 1
    assert number == log.next
    total_bytes = sum(len(record.data) + record.dropped_bytes for record in records)
    assert from_record or total_bytes == log.total_bytes


def disk_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*"))


def gaps(records: list[Record]) -> list[Record]:
    return [record for record in records if record.stream is LogStream.GAP]


async def test_what_is_appended_is_read_back_in_order(tmp_path: Path) -> None:
    log = small_log(tmp_path / "log")
    assert log.append(LogStream.STDOUT, b"one\n", 11) == 0
    assert log.append(LogStream.STDERR, b"two", 12) == 1
    assert await read_all(log) == [
        Record(0, 11, LogStream.STDOUT, b"one\n"),
        Record(1, 12, LogStream.STDERR, b"two"),
    ]
    assert (log.first, log.next) == (0, 2)


async def test_a_finished_log_reads_the_same_from_disk(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    fill(log, 25)
    before = await read_all(log)
    log.close()
    reopened = RunLog.open_existing(tmp_path)
    assert await read_all(log) == before
    assert await read_all(reopened) == before
    assert (reopened.first, reopened.next, reopened.total_bytes) == (0, 25, log.total_bytes)


async def test_over_the_cap_the_start_and_the_end_are_kept(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    for _ in range(200):
        fill(log, 1)
        assert disk_bytes(tmp_path) <= 4 * MIB
    records = await read_all(log)
    assert_consistent(log, records)
    assert len(gaps(records)) == 1
    assert records[0].number == 0
    assert records[-1].number == 199


async def test_the_hole_is_as_exact_after_reopening(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    fill(log, 200)
    records = await read_all(log)
    log.close()
    reopened = RunLog.open_existing(tmp_path)
    again = await read_all(reopened)
    assert_consistent(reopened, again)
    assert gaps(again) == gaps(records)


async def test_reading_may_start_at_any_number(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    fill(log, 120)
    for start in range(121):
        assert_consistent(log, await read_all(log, start), start)


async def test_a_reader_that_starts_in_a_hole_hears_how_many_records_it_missed(
    tmp_path: Path,
) -> None:
    log = small_log(tmp_path)
    fill(log, 200)
    (hole,) = gaps(await read_all(log))
    middle = hole.number + 7
    (first, *_) = await read_all(log, middle)
    assert (first.number, first.dropped_records) == (middle, hole.dropped_records - 7)


async def test_a_follower_gets_a_record_as_soon_as_it_is_there(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    with log.reader() as reader:
        waiting = asyncio.create_task(anext(reader))
        await asyncio.sleep(0)
        log.append(OUT, b"now", 1)
        assert [record.data for record in await waiting] == [b"now"]


async def test_a_cancelled_read_loses_nothing(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    with log.reader() as reader:
        waiting = asyncio.create_task(anext(reader))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        log.append(OUT, b"later", 1)
        assert [record.data for record in await anext(reader)] == [b"later"]


async def test_a_read_cancelled_on_disk_loses_nothing(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    fill(log, 30)
    log.close()
    with log.reader() as reader:
        reading = asyncio.create_task(anext(reader))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait({reading})
        records = [record async for batch in reader for record in batch]
    assert_consistent(log, records)


async def test_followers_end_when_the_log_is_closed(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    followers = [asyncio.create_task(follow(log)) for _ in range(20)]
    fill(log, 30)
    await asyncio.sleep(0)
    fill(log, 30)
    log.close()
    for follower in followers:
        assert_consistent(log, await follower)


async def follow(log: RunLog) -> list[Record]:
    with log.reader() as reader:
        return [record async for batch in reader for record in batch]


async def test_a_batch_is_bounded_also_for_tiny_records(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    for _ in range(5000):
        log.append(OUT, b".", 1)
    with log.reader(follow=False) as reader:
        sizes = [len(batch) async for batch in reader]
    assert sum(sizes) == 5000
    assert max(sizes) <= 2048


async def test_a_slow_reader_skips_what_was_dropped_meanwhile(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    fill(log, 3)
    with log.reader() as reader:
        seen = [*await anext(reader)]
        fill(log, 300)
        log.close()
        seen += [record async for batch in reader for record in batch]
    assert_consistent(log, seen)
    assert gaps(seen)


async def test_a_lossless_reader_holds_the_program_and_loses_nothing(tmp_path: Path) -> None:
    log = small_log(tmp_path)

    async def program() -> None:
        for _ in range(300):
            await log.ready()
            fill(log, 1)
        log.close()

    with log.reader(lossless=True) as reader:
        running = asyncio.create_task(program())
        held = await settled(log)
        assert held < 300
        records = [record async for batch in reader for record in batch]
    await running
    assert_consistent(log, records)
    assert not gaps(records)


async def settled(log: RunLog) -> int:
    """The number of the next record once no task appends any more."""
    before = -1
    while before != log.next:
        before = log.next
        for _ in range(10):
            await asyncio.sleep(0)
    return before


async def test_a_program_that_outruns_its_client_lets_it_catch_up_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlog_module, "PATIENCE_S", 10.0)
    log = RunLog(tmp_path / "log", max_bytes=64 * MIB, segment_bytes=8 * MIB)
    with log.reader(lossless=True) as reader:
        while not log._outruns_readers():
            fill(log, 1)
        room = asyncio.create_task(log.ready())
        await asyncio.sleep(0)
        assert not room.done()
        assert (await anext(reader))[0].number == 0
        await asyncio.wait_for(room, 5)
        assert log.recent.first == 0  # nothing was read back from the disk


async def test_a_client_that_reads_nothing_only_slows_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlog_module, "PATIENCE_S", 0.001)
    log = RunLog(tmp_path / "log", max_bytes=64 * MIB, segment_bytes=8 * MIB)
    with log.reader(lossless=True):
        while log.total_bytes < 16 * MIB:
            await asyncio.wait_for(log.ready(), 5)
            fill(log, 1)
    assert log.next == 168


async def test_the_program_goes_on_when_the_lossless_reader_leaves(tmp_path: Path) -> None:
    log = small_log(tmp_path)

    async def program() -> None:
        for _ in range(100):
            await log.ready()
            fill(log, 1)

    reader = log.reader(lossless=True)
    running = asyncio.create_task(program())
    assert await settled(log) < 100
    reader.close()
    await running
    assert log.next == 100


async def test_other_readers_never_hold_the_program(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    with log.reader():
        for _ in range(100):
            await log.ready()
            fill(log, 1)
    assert log.next == 100


async def test_a_torn_tail_is_left_out(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    fill(log, 5)
    log.close()
    (path,) = tmp_path.glob("*.seg")
    whole = path.read_bytes()
    for cut in (1, 50_000, 99_999, 100_017):
        path.write_bytes(whole[:-cut])
        reopened = RunLog.open_existing(tmp_path)
        assert_consistent(reopened, await read_all(reopened))
        assert reopened.next == 4
    path.write_bytes(whole + b"\0" * 4096)
    assert RunLog.open_existing(tmp_path).next == 5


async def test_a_killed_writer_leaves_a_log_that_can_be_read(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from devloop.remote_agent.logs import LogStream, RunLog
        log = RunLog(Path(sys.argv[1]), max_bytes=4 << 20, segment_bytes=1 << 20)
        while True:
            log.append(LogStream.STDOUT, (b"%08d" % log.next) * 12500, 1)
            print(log.next, flush=True)
    """
    argv = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        written = max(int(writer.stdout.readline()) for _ in range(60))
        writer.kill()
    log = RunLog.open_existing(tmp_path)
    assert log.next >= written
    assert_consistent(log, await read_all(log))


async def test_a_log_whose_header_is_torn_is_empty(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    fill(log, 1)
    log.close()
    (path,) = tmp_path.glob("*.seg")
    path.write_bytes(path.read_bytes()[:20])
    reopened = RunLog.open_existing(tmp_path)
    assert reopened.next == 0
    assert await read_all(reopened) == []


async def test_a_flipped_bit_costs_the_rest_of_its_segment_and_is_announced(
    tmp_path: Path,
) -> None:
    log = small_log(tmp_path)
    fill(log, 25)
    log.close()
    path = sorted(tmp_path.glob("*.seg"))[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    reopened = RunLog.open_existing(tmp_path)
    records = await read_all(reopened)
    assert_consistent(reopened, records)
    assert len(gaps(records)) == 1


def test_a_log_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"no log at .*absent"):
        RunLog.open_existing(tmp_path / "absent")


def test_a_record_larger_than_256_kib_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="262145 bytes"):
        small_log(tmp_path).append(OUT, bytes((256 << 10) + 1), 1)


# -- a disk that refuses


@contextmanager
def files_limited_to(size_bytes: int) -> Iterator[None]:
    """The kernel cuts a write short at the limit, and then refuses: as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_short_disk_failure_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlog_module, "RETRY_DISK_S", 0.0)
    log = small_log(tmp_path)
    fill(log, 4)
    with files_limited_to(450_000):
        fill(log, 5)
        assert log.disk_error is not None
        assert_consistent(log, await read_all(log))
    fill(log, 1)
    assert log.disk_error is None
    log.close()
    reopened = RunLog.open_existing(tmp_path)
    records = await read_all(reopened)
    assert_consistent(reopened, records)
    assert reopened.next == 10
    assert not gaps(records)


async def test_a_long_disk_failure_costs_the_oldest_unsaved_records_and_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlog_module, "RETRY_DISK_S", 0.0)
    log = small_log(tmp_path)
    fill(log, 4)
    with files_limited_to(0):
        fill(log, 50)
        assert_consistent(log, await read_all(log))
    fill(log, 10)
    log.close()
    reopened = RunLog.open_existing(tmp_path)
    records = await read_all(reopened)
    assert_consistent(reopened, records)
    assert len(gaps(records)) == 1
    assert reopened.next == 64


async def test_a_log_that_never_reached_the_disk_is_read_from_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    log = small_log(tmp_path / "file" / "below")
    fill(log, 3)
    log.close()
    assert_consistent(log, await read_all(log))


async def test_a_full_disk_holds_the_program_for_a_lossless_reader(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    log = small_log(tmp_path / "file" / "below")

    async def program() -> None:
        for _ in range(100):
            await log.ready()
            fill(log, 1)
        log.close()

    with log.reader(lossless=True) as reader:
        running = asyncio.create_task(program())
        assert await settled(log) < 100
        records = [record async for batch in reader for record in batch]
    await running
    assert_consistent(log, records)
    assert not gaps(records)


def run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a tmpfs")
async def test_a_run_goes_on_while_its_file_system_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlog_module, "RETRY_DISK_S", 0.0)
    mount = tmp_path / "small"
    mount.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mount)
    try:
        log = small_log(mount / "log")
        fill(log, 60)
        assert log.disk_error is not None
        records = await read_all(log)
        assert_consistent(log, records)
        assert len(gaps(records)) == 1
        run("mount", "-o", "remount,size=8m", mount)
        fill(log, 1)
        assert log.disk_error is None
        log.close()
        again = await read_all(RunLog.open_existing(mount / "log"))
        assert again == [*records, Record(60, 1060, OUT, piece(60))]
    finally:
        run("umount", mount)


# -- the format


@given(
    st.lists(st.binary(max_size=300), max_size=20),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.integers(0, 8000),
)
def test_a_segment_cut_anywhere_holds_exactly_its_whole_records(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[bytes],
    first: int,
    start_bytes: int,
    cut: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "segment"
    records = [Record(first + index, -index, OUT, data) for index, data in enumerate(pieces)]
    encoded = [encode_header(first, start_bytes)]
    encoded += [encode_record_head(record) + record.data for record in records]
    path.write_bytes(b"".join(encoded)[:cut])
    segment = scan_segment(path)
    if cut < HEADER_BYTES:
        assert segment is None
        return
    ends = [sum(map(len, encoded[: index + 2])) for index in range(len(records))]
    whole = records[: sum(end <= cut for end in ends)]
    assert segment is not None
    found, _ = read_records(path, Cursor(first, HEADER_BYTES), segment.size_bytes, first)
    assert found == whole
    assert segment.next == first + len(whole)
    assert segment.end_bytes == start_bytes + sum(len(record.data) for record in whole)
