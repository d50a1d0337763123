"""What was read of a file is told from what is in memory because the disk read ahead."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from devloop.remote_agent.page_cache import let_go, used_pieces

if TYPE_CHECKING:
    from pathlib import Path

PIECE_BYTES = 256 << 10
PIECES = 32
# Reads one page by read(2), and maps and touches another; advice keeps the kernel from more.
TOUCH = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
os.pread(fd, 100, 3 << 20)
memory = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
memory.madvise(mmap.MADV_NORMAL)
memory[6 << 20]
if len(sys.argv) > 2:
    print("mapped", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """All of it is in memory, and nobody has used a byte."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(os.urandom(PIECES * PIECE_BYTES))
        os.fsync(file.fileno())
    let_go(path)
    with path.open("rb") as file:
        if _in_memory(file.fileno()):
            pytest.skip("needs a disk")
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
    return path


def _in_memory(fd: int) -> int:
    with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE) as memory:
        pages = (ctypes.c_ubyte * (len(memory) // mmap.PAGESIZE))()
        held = ctypes.c_char.from_buffer(memory)
        address, length = ctypes.c_void_p(ctypes.addressof(held)), ctypes.c_size_t(len(memory))
        assert ctypes.CDLL(None).mincore(address, length, pages) == 0
        del held
        return sum(page & 1 for page in pages)


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


def test_what_was_read_ahead_and_not_used_is_left_out(file: Path) -> None:
    subprocess.run([sys.executable, "-c", TOUCH, str(file)], check=True)
    used = used_pieces(file, PIECE_BYTES)
    assert {12, 24} <= set(used)
    assert len(used) < PIECES // 4


def test_what_a_living_process_has_mapped_was_used(file: Path) -> None:
    command = [sys.executable, "-c", TOUCH, str(file), "wait"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mapped\n"
        assert 24 in used_pieces(file, PIECE_BYTES)
        process.communicate()


def test_a_look_is_no_use(file: Path) -> None:
    assert used_pieces(file, PIECE_BYTES) == used_pieces(file, PIECE_BYTES) == []
