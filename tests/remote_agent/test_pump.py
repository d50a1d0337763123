"""Pump, StdinWriter and terminals with real pipes, terminals and processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from devloop.remote_agent.logs import LogStream, Record, RunLog
from devloop.remote_agent.pump import Pump
from devloop.remote_agent.stdin import StdinGap, StdinWriter
from devloop.remote_agent.terminal import open_pty, set_terminal_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OUT, ERR = LogStream.STDOUT, LogStream.STDERR


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RunLog]:
    log = RunLog(tmp_path / "log")
    yield log
    log.close()


async def output(log: RunLog, stream: LogStream = OUT) -> bytes:
    with log.reader(follow=False) as reader:
        records = [record async for batch in reader for record in batch]
    return b"".join(record.data for record in records if record.stream is stream)


def start(
    code: str, *, stdin: int | None = None
) -> tuple[subprocess.Popen[bytes], dict[int, LogStream]]:
    """A Python process whose stdout and stderr are pipes; the caller owns their read ends."""
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    argv = [sys.executable, "-c", code]
    process = subprocess.Popen(argv, stdin=stdin, stdout=out_write, stderr=err_write)
    os.close(out_write)
    os.close(err_write)
    return process, {out_read: OUT, err_read: ERR}


async def test_stdout_and_stderr_stay_apart_and_byte_exact(log: RunLog) -> None:
    code = (
        "import os; os.write(1, b'o' * 300000); os.write(2, bytes(range(256))); os.write(1, b'!')"
    )
    process, fds = start(code)
    await Pump(log, fds).run()
    assert process.wait() == 0
    assert await output(log) == b"o" * 300000 + b"!"
    assert await output(log, ERR) == bytes(range(256))


async def test_the_first_output_is_reported_once_and_at_once(log: RunLog) -> None:
    read, write = os.pipe()
    heard: list[int] = []
    pumping = asyncio.create_task(Pump(log, {read: OUT}, on_first_output=heard.append).run())
    with log.reader() as reader:
        os.write(write, b"first\n")
        (record,) = await anext(reader)
        assert heard == [record.time_ns]
        os.write(write, b"second\n")
        await anext(reader)
    os.close(write)
    await pumping
    assert len(heard) == 1


async def test_the_descriptors_are_closed_at_the_end_and_when_cancelled(log: RunLog) -> None:
    read, write = os.pipe()
    pumping = asyncio.create_task(Pump(log, {read: OUT}).run())
    await asyncio.sleep(0)
    pumping.cancel()
    await asyncio.wait({pumping})
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)


async def test_finish_does_not_wait_for_a_process_that_holds_the_pipe(log: RunLog) -> None:
    read, write = os.pipe()
    pump = Pump(log, {read: OUT})
    pumping = asyncio.create_task(pump.run())
    os.write(write, b"before")
    pump.finish()
    await pumping
    os.close(write)
    assert await output(log) == b"before"


async def test_finish_does_not_wait_for_a_process_that_floods(log: RunLog) -> None:
    process, fds = start("import os\nwhile True: os.write(1, b'y' * 65536)")
    pump = Pump(log, fds)
    pumping = asyncio.create_task(pump.run())
    with log.reader() as reader:
        await anext(reader)
    pump.finish()
    await pumping
    assert process.wait() != 0  # its pipe is closed


async def test_a_flood_delays_nobody_else(log: RunLog) -> None:
    process, fds = start("import os\nwhile True: os.write(1, b'y\\n' * 32768)")
    pumping = asyncio.create_task(Pump(log, fds).run())
    late_s: list[float] = []
    while log.total_bytes < 200 << 20:
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        late_s.append(time.perf_counter() - before - 0.001)
    process.kill()
    process.wait()
    await pumping
    late_s.sort()
    p99_ms = 1000 * late_s[len(late_s) * 99 // 100]
    print(f"{len(late_s)} wake-ups during a flood: p99 {p99_ms:.1f} ms late")
    assert p99_ms < 20


async def test_a_program_waits_for_a_lossless_reader(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log", max_bytes=4 << 20, segment_bytes=1 << 20, memory_bytes=1 << 20)
    process, fds = start("import os\nfor n in range(20 * 1024): os.write(1, b'%07d\\n' % n * 128)")
    with log.reader(lossless=True) as reader:
        pumping = asyncio.create_task(Pump(log, fds).run())
        pumping.add_done_callback(lambda _: log.close())
        records: list[Record] = [record async for batch in reader for record in batch]
    assert process.wait() == 0
    data = b"".join(record.data for record in records)
    assert data == b"".join(b"%07d\n" % n * 128 for n in range(20 * 1024))


# -- terminals


async def test_a_terminal_s_output_ends_with_its_last_process(log: RunLog) -> None:
    pty = open_pty(24, 80)
    code = "import sys, os; print(sys.stdout.isatty(), *os.get_terminal_size())"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=pty.slave)
    os.close(pty.slave)
    await Pump(log, {pty.master: OUT}).run()
    assert process.wait() == 0
    assert await output(log) == b"True 80 24\r\n"


def test_a_terminal_can_be_resized() -> None:
    pty = open_pty(24, 80)
    set_terminal_size(pty.master, 100, 200_000)
    size = os.get_terminal_size(pty.slave)
    os.close(pty.master)
    os.close(pty.slave)
    assert (size.lines, size.columns) == (100, 65535)


@pytest.mark.parametrize(("typed", "read"), [(b"line\n", b"line\n"), (b"cut", b"cut"), (b"", b"")])
async def test_the_end_of_input_reaches_a_program_on_a_terminal(
    log: RunLog, typed: bytes, read: bytes
) -> None:
    pty = open_pty(24, 80)
    code = "import sys; sys.stderr.buffer.write(sys.stdin.buffer.read())"
    err_read, err_write = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pty.slave, stderr=err_write)
    stdin = StdinWriter(os.dup(pty.master), is_tty=True)
    await stdin.write(0, typed)
    stdin.end()
    os.close(err_write)
    await Pump(log, {err_read: ERR}).run()
    assert process.wait() == 0
    os.close(pty.slave)
    os.close(pty.master)
    assert await output(log, ERR) == read


# -- standard input


async def test_input_larger_than_every_buffer_arrives_whole(log: RunLog) -> None:
    data = os.urandom(5 << 20)
    read, write = os.pipe()
    code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
    process, fds = start(code, stdin=read)
    os.close(read)
    stdin = StdinWriter(write)
    pumping = asyncio.create_task(Pump(log, fds).run())
    for offset in range(0, len(data), 200_000):
        await stdin.write(offset, data[offset : offset + 200_000])
    stdin.end()
    await pumping
    assert process.wait() == 0
    assert stdin.closed
    assert await output(log) == data


async def test_what_was_received_is_not_repeated() -> None:
    read, write = os.pipe()
    stdin = StdinWriter(write)
    assert await stdin.write(0, b"abcd") == 4
    assert await stdin.write(2, b"cdef") == 6
    assert await stdin.write(0, b"abc") == 6
    stdin.end()
    assert os.read(read, 100) == b"abcdef"
    assert os.read(read, 100) == b""
    os.close(read)


async def test_missing_input_is_refused() -> None:
    read, write = os.pipe()
    stdin = StdinWriter(write)
    await stdin.write(0, b"abc")
    with pytest.raises(StdinGap, match="lacks 2 bytes before byte 5"):
        await stdin.write(5, b"f")
    stdin.close()
    os.close(read)


async def test_a_program_that_does_not_read_holds_the_sender_back() -> None:
    read, write = os.pipe()
    stdin = StdinWriter(write)
    chunk = bytes(256 << 10)

    async def send() -> None:
        for index in range(20):
            await stdin.write(index * len(chunk), chunk)

    sending = asyncio.create_task(send())
    for _ in range(50):
        await asyncio.sleep(0)
    assert not sending.done()
    assert stdin.received_bytes <= (2 << 20)
    os.close(read)  # and one that goes away lets it go on
    await sending
    assert stdin.closed
    assert stdin.received_bytes == 20 * len(chunk)


async def test_input_for_a_program_that_does_not_read_any_more_is_dropped() -> None:
    read, write = os.pipe()
    stdin = StdinWriter(write)
    os.close(read)
    assert await stdin.write(0, b"x") == 1
    assert stdin.closed
    assert await stdin.write(1, b"y") == 2
    stdin.end()
    stdin.close()
