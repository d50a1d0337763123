"""Promise 11: Ctrl-C works at once while a run floods its output, however slow its reader is."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from tests.e2e.box import wait_until
from tests.e2e.conftest import open_either
from tests.e2e.terminal import open_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.box import Box

TRIES = 10 if os.environ.get("DEVLOOP_SOAK") == "1" else 2
FLOOD_S = 1.0
SLOW_BYTES_S = 100_000
BOUNDED = "yes | head -c 20000000; exec sleep 60"
LIMIT_S = 2.0  # to the exit of the client; the run itself ends within a round trip


@pytest.fixture(scope="module", params=["embedded", "ssh"])
def box(request: pytest.FixtureRequest, ssh_shared: Path) -> Iterator[Box]:
    with open_either(request.param, ssh_shared) as opened:
        yield opened


@pytest.mark.promise(11)
@pytest.mark.parametrize("reader", ["quick", "slow"])
def test_ctrl_c_ends_a_flood(box: Box, reader: str) -> None:
    rate = 1 << 30 if reader == "quick" else SLOW_BYTES_S
    took = [interrupt_flood(box, rate) for _ in range(TRIES)]
    print(f"{TRIES} tries, {reader} reader: at most {max(took):.2f} s from Ctrl-C to the exit")
    assert max(took) < LIMIT_S


@pytest.mark.promise(11)
def test_a_second_ctrl_c_leaves_when_nobody_reads(box: Box) -> None:
    process = flood(box, "exec", "-q", "--", "yes")
    read_for(process, FLOOD_S, 1)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    took_s = time.monotonic() - began
    print(f"1 try, no reader: {took_s:.2f} s from the second Ctrl-C to the exit")
    assert took_s < LIMIT_S


@pytest.mark.promise(11)
def test_ctrl_c_in_a_terminal_ends_a_flood(box: Box) -> None:
    with open_terminal(box, box.project(), "exec", "--", "yes") as terminal:
        terminal.screen.wait_for("y\r\ny")
        began = time.monotonic()
        terminal.type("\x03")
        assert terminal.process.wait(30) == 130
        took_s = time.monotonic() - began
    print(f"1 try, a terminal: {took_s:.2f} s from Ctrl-C to the exit")
    assert took_s < 5.0


@pytest.mark.promise(11)
def test_ctrl_c_twice_leaves_up_when_nobody_reads(box: Box) -> None:
    project = box.project()
    process = flood(box, "up", "--plain", "--", "yes", project=project)
    read_for(process, FLOOD_S, 1 << 30)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    wait_until(lambda: not box.live_runs(project), timeout_s=LIMIT_S * 2)
    ended_s = time.monotonic() - began
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    left_s = time.monotonic() - began
    print(f"1 try, up, no reader: the run ended in {ended_s:.2f} s, up itself in {left_s:.2f} s")
    assert left_s < LIMIT_S * 2


def interrupt_flood(box: Box, bytes_per_s: int) -> float:
    # More than the reader takes in a minute, and less than the log holds for it.
    program = ("yes",) if bytes_per_s > SLOW_BYTES_S else ("sh", "-c", BOUNDED)
    process = flood(box, "exec", "-q", "--", *program)
    read_for(process, FLOOD_S, bytes_per_s)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    read_until(process, bytes_per_s, lambda: process.poll() is not None)
    assert process.returncode == 130
    return time.monotonic() - began


def flood(box: Box, *words: str, project: Path | None = None) -> subprocess.Popen[bytes]:
    return box.start(
        project or box.project(),
        *words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def read_for(process: subprocess.Popen[bytes], seconds: float, bytes_per_s: int) -> None:
    """From the first byte on, so that the flood has begun."""
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 1)
    until = time.monotonic() + seconds
    read_until(process, bytes_per_s, lambda: time.monotonic() > until)


def read_until(
    process: subprocess.Popen[bytes], bytes_per_s: int, over: Callable[[], bool]
) -> None:
    assert process.stdout is not None
    fd, read_bytes, began = process.stdout.fileno(), 0, time.monotonic()
    while not over():
        allowed = int((time.monotonic() - began) * bytes_per_s) - read_bytes
        if allowed > 0 and select.select([fd], [], [], 0.01)[0]:
            read_bytes += len(os.read(fd, min(allowed, 1 << 20)))
        else:
            select.select([], [], [], 0.01)
