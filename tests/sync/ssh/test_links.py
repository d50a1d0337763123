"""What every link does, whichever client carries it, against a real sshd."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from devloop.sync.ssh import openssh, paramiko_link
from devloop.sync.ssh.connect import SshOptions, connect
from devloop.sync.ssh.errors import CommandTimedOut, LinkLost, OutputTooLong

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.sshd import Sshd

    from devloop.sync.ssh.link import Link


@pytest.fixture(params=["openssh", "paramiko"])
async def link(request: pytest.FixtureRequest, sshd: Sshd) -> AsyncIterator[Link]:
    opened = await connect(sshd.alias, SshOptions(request.param, sshd.config))
    yield opened
    await opened.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("devloop-ssh")]
    assert not [t for t in threading.enumerate() if type(t).__module__.startswith("paramiko")]


async def test_a_command_runs_and_its_end_is_known(link: Link) -> None:
    done = await link.run("cat; echo oops >&2; exit 3", stdin=b"hello")
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"hello", b"oops\n")


async def test_255_is_an_exit_code_like_any_other(link: Link) -> None:
    assert (await link.run("exit 255")).exit_code == 255


async def test_a_command_that_reads_nothing_is_no_error(link: Link) -> None:
    done = await link.run("exit 7", stdin=b"x" * 5_000_000)
    assert done.exit_code == 7


async def test_stdin_may_come_piece_by_piece(link: Link) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(200):
            yield bytes([number]) * 50_000

    assert (await link.run("wc -c", stdin=pieces())).stdout.strip() == b"10000000"


async def test_what_feeds_stdin_may_fail(link: Link) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        await link.run("cat", stdin=broken())


async def test_a_command_is_given_up_after_its_time(link: Link) -> None:
    with pytest.raises(CommandTimedOut, match=r"sleep 60.*0\.2 s"):
        await link.run("exec sleep 60", timeout_s=0.2)
    assert (await link.run("echo on")).stdout == b"on\n"


async def test_output_beyond_the_limit_is_refused(link: Link) -> None:
    with pytest.raises(OutputTooLong):
        await link.run("yes", max_output_bytes=100_000)
    assert (await link.run("echo on")).stdout == b"on\n"


async def test_of_stderr_the_end_is_kept(link: Link) -> None:
    done = await link.run("seq 1 100000 >&2; echo end >&2")
    assert done.stderr.endswith(b"100000\nend\n")
    assert len(done.stderr) == 64 << 10


async def test_commands_run_side_by_side(link: Link) -> None:
    streams = [await link.open("cat") for _ in range(5)]
    for number, stream in enumerate(streams):
        await stream.write(b"%d" % number)
    assert [await stream.read() for stream in streams] == [b"%d" % n for n in range(5)]
    for stream in streams:
        await stream.close()


async def test_a_stream_ends_its_input_and_still_reads(link: Link) -> None:
    stream = await link.open("cat; echo over; exit 4")
    await stream.write(b"some ")
    await stream.write_eof()
    read = b""
    while data := await stream.read():
        read += data
    assert (read, await stream.wait()) == (b"some over\n", 4)
    await stream.close()
    await stream.close()


async def test_writing_to_a_command_that_has_ended_says_so(link: Link) -> None:
    stream = await link.open("true")
    await stream.wait()

    async def write_on() -> None:
        while True:
            await stream.write(b"x" * 10_000)
            await asyncio.sleep(0)

    with pytest.raises(LinkLost):
        await asyncio.wait_for(write_on(), 10)
    await stream.close()


async def test_closing_a_stream_ends_what_reads_from_it(link: Link, tmp_path: Path) -> None:
    marker = tmp_path / "ended"
    stream = await link.open(f"echo up; cat >/dev/null; touch '{marker}'")
    assert await stream.read() == b"up\n"
    await stream.close()
    async with asyncio.timeout(10):
        while not marker.exists():
            await asyncio.sleep(0.01)


async def test_a_socket_is_the_commands_stdin_and_stdout(link: Link) -> None:
    ours, theirs = socket.socketpair()
    command = await link.connect_socket("cat; exit 5", theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(b"x" * 3_000_000)
    assert await reader.readexactly(3_000_000) == b"x" * 3_000_000
    writer.write_eof()
    assert await reader.read() == b""
    assert await command.wait() == 5
    writer.close()
    await command.close()


async def test_a_lost_connection_is_noticed(link: Link, sshd: Sshd) -> None:
    stream = await link.open("cat")
    sshd.drop_connections()
    await asyncio.wait_for(link.lost.wait(), 10)
    assert await asyncio.wait_for(stream.read(), 10) == b""
    assert await asyncio.wait_for(stream.wait(), 10) == 255
    assert isinstance(link.reason, LinkLost)
    with pytest.raises(LinkLost):
        await link.run("true")
    await stream.close()


async def test_a_command_whose_link_is_lost_says_so(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    marker = tmp_path / "up"
    running = asyncio.create_task(link.run(f"touch '{marker}'; cat", stdin=_endless()))
    while not marker.exists():
        await asyncio.sleep(0.01)
    sshd.drop_connections()
    with pytest.raises(LinkLost):
        await asyncio.wait_for(running, 10)


async def _endless() -> AsyncIterator[bytes]:
    yield b"x"
    await asyncio.Event().wait()


async def test_a_closed_link_starts_nothing(link: Link) -> None:
    await link.close()
    assert link.lost.is_set()
    assert link.reason is None
    with pytest.raises(LinkLost):
        await link.open("true")


async def test_close_leaves_no_process_and_no_socket(sshd: Sshd) -> None:
    before = set(psutil.Process().children(recursive=True))
    link = await connect(sshd.alias, SshOptions("openssh", sshd.config))
    await link.open("exec sleep 60")
    await link.close()
    left = set(psutil.Process().children(recursive=True)) - before
    served = {psutil.Process(pid) for pid in sshd.connections()}
    assert not left - served


@pytest.mark.parametrize("client", ["openssh", "paramiko"])
async def test_a_far_side_that_went_silent_is_noticed(
    client: str, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the network is gone; with shorter times than the real 5 and 10 s."""
    monkeypatch.setitem(openssh.ALWAYS, "ServerAliveInterval", "1")
    monkeypatch.setitem(openssh.ALWAYS, "ServerAliveCountMax", "1")
    monkeypatch.setattr(paramiko_link, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(paramiko_link, "DEAD_LINK_S", 0.8)
    link = await connect(sshd.alias, SshOptions(client, sshd.config))
    stream = await link.open("cat")
    frozen = sshd.connections()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.wait_for(link.lost.wait(), 10)
    assert isinstance(link.reason, LinkLost)
    assert await asyncio.wait_for(stream.read(), 10) == b""
    await stream.close()
    await link.close()
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
