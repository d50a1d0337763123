"""The program between an SSH channel and the agent, as a process, with a socket for an agent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devloop.cafs import dirs
from devloop.remote_agent import bridge

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = bridge.__file__
MIB = 1 << 20
TIMEOUT_S = 20.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where the state directory says that the agent is."""
    with (
        tempfile.TemporaryDirectory(prefix="dl-") as directory,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        listening.bind(f"{directory}/bridge.sock")
        listening.listen()
        listening.settimeout(TIMEOUT_S)
        write_lock(f"{directory}/agent.sock\n{socket.gethostname()}\n1.2.3-abc\n")
        yield listening


def write_lock(text: str) -> None:
    dirs.state_dir().mkdir(parents=True, exist_ok=True)
    (dirs.state_dir() / "agent.lock").write_text(text)


def start(mode: str = "find") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", PROGRAM, mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )


def finish(process: subprocess.Popen[bytes]) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    return process.wait(TIMEOUT_S)


def answer(mode: str = "find") -> bytes:
    words = [sys.executable, "-I", "-S", PROGRAM, mode]
    return subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=True
    ).stdout


def test_bytes_pass_both_ways_after_one_line(listener: socket.socket) -> None:
    process = start()
    assert process.stdin is not None
    assert process.stdout is not None
    agent, _ = listener.accept()
    assert process.stdout.readline() == b"devloop-here bridge 1.2.3-abc\n"
    sent = os.urandom(3 * MIB)
    for write, read in (
        (lambda: agent.sendall(sent), process.stdout.read),
        (lambda: write_all(process, sent), agent.recv),
    ):
        writer = threading.Thread(target=write)
        writer.start()
        assert read_exactly(read, len(sent)) == sent
        writer.join()
    process.stdin.close()
    assert agent.recv(1) == b""
    agent.sendall(b"last words")
    agent.close()
    assert process.stdout.read() == b"last words"
    assert finish(process) == 0


def write_all(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    view = memoryview(data)
    while view:
        view = view[process.stdin.write(view) :]


def read_exactly(read: object, size: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < size:
        piece = read(size - len(pieces))  # type: ignore[operator]
        assert piece, "ended early"
        pieces += piece
    return bytes(pieces)


def test_it_ends_with_the_agent_though_the_channel_stays_open(listener: socket.socket) -> None:
    process = start()
    listener.accept()[0].close()
    assert process.wait(TIMEOUT_S) == 0
    finish(process)


def test_it_ends_with_the_channel_though_the_agent_says_nothing(listener: socket.socket) -> None:
    process = start()
    agent, _ = listener.accept()
    with agent:
        finish(process)
        assert process.returncode == 0


def test_one_line_is_all_without_an_agent() -> None:
    assert answer() == b"devloop-here absent\n"
    write_lock(f"/nowhere/agent.sock\n{socket.gethostname()}\n1.2.3\n")
    assert answer() == b"devloop-here absent\n"
    assert answer("gone") == b"devloop-here absent\n"


def test_an_agent_on_another_machine_is_not_looked_for(listener: socket.socket) -> None:
    words = (dirs.state_dir() / "agent.lock").read_text().splitlines()
    write_lock(f"{words[0]}\nother-box\n{words[2]}\n")
    assert answer() == b"devloop-here absent\n"


def test_a_socket_that_others_can_reach_is_not_trusted(listener: socket.socket) -> None:
    Path(listener.getsockname()).parent.chmod(0o755)
    assert answer() == b"devloop-here absent\n"


def test_an_emptied_lock_says_that_the_agent_has_ended() -> None:
    write_lock("")
    assert answer("again") == b"devloop-here ended\n"


def test_both_halves_agree_on_the_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for explicit in (str(tmp_path / "a"), ""):
        monkeypatch.setenv("DEVLOOP_STATE_DIR", explicit)
        for base in (str(tmp_path / "b"), "~/c", ""):
            monkeypatch.setenv("XDG_STATE_HOME", base)
            assert bridge.state_dir() == str(dirs.state_dir())


def test_it_loads_nothing_that_costs_time() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", PROGRAM, "find"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "os" in loaded
    assert not loaded & {"grpc", "json", "pathlib", "re", "socket", "threading", "typing"}
