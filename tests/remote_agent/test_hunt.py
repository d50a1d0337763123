"""Looking for processes whose names may be any bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from devloop.remote_agent.processes import _describe
from devloop.remote_agent.zygote import hunt

if TYPE_CHECKING:
    from collections.abc import Iterator

RENAMES_ITSELF = r"""
import ctypes, sys
ctypes.CDLL(None).prctl(15, b"\xff) \xfe", 0, 0, 0)
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def odd_pid() -> Iterator[int]:
    """Of a child whose name is no UTF-8, and looks like the end of one."""
    command = [sys.executable, "-c", RENAMES_ITSELF]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid


def test_a_process_is_found_whatever_its_name(odd_pid: int) -> None:
    assert odd_pid in hunt.living_descendants(os.getpid())
    assert hunt.foreground_group(odd_pid) >= 0
    assert (odd_pid, os.getpid()) in list(hunt._processes())


def test_a_process_is_described_whatever_its_name(odd_pid: int) -> None:
    described = _describe(odd_pid)
    assert described is not None
    assert described.startswith(rf"pid {odd_pid} (\xff) \xfe), in ")
