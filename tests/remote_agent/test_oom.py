"""What the kernel says of a process that it has killed for want of memory."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.box import events, open_box

from devloop.remote_agent.oom import killed_line

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = Path("/sys/fs/cgroup/memory")
GREEDY = """
import sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
hoard = bytearray(200 << 20)
"""


def uptime_us() -> int:
    return int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)


def record(pid: int, at_us: int) -> bytes:
    words = f"Memory cgroup out of memory: Killed process {pid} (python3) anon-rss:65024kB"
    return f"3,7022,{at_us},-;{words}\n SUBSYSTEM=x\n".encode()


def test_the_line_of_a_process_is_found_and_an_older_one_of_its_number_is_not(
    tmp_path: Path,
) -> None:
    log = tmp_path / "kmsg"  # one read is one record there; a file gives all of it at once
    log.write_bytes(record(77, uptime_us()))
    assert killed_line(77, 5.0, log=str(log)).endswith(
        "Killed process 77 (python3) anon-rss:65024kB"
    )
    assert killed_line(0, 5.0, log=str(log))
    assert not killed_line(78, 5.0, log=str(log))
    log.write_bytes(record(77, uptime_us() - 60_000_000))
    assert not killed_line(77, 5.0, log=str(log))


def test_a_log_that_may_not_be_read_says_nothing(tmp_path: Path) -> None:
    assert killed_line(1, 5.0, log=str(tmp_path / "none")) == ""


@pytest.fixture
def group() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not (MEMORY / "tasks").exists():
        pytest.skip("needs the memory controller of cgroup v1")
    group = MEMORY / f"devloop-test-{secrets.token_hex(4)}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text("64M")
    yield group
    with contextlib.suppress(OSError):
        group.rmdir()


def test_the_kernel_names_the_process_that_it_has_killed(group: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", GREEDY, str(group)]) as process:
        assert process.wait(60) == -9
    line = killed_line(process.pid, 60.0)
    assert f"Killed process {process.pid} (" in line
    assert "out of memory" in line.lower()


def test_a_run_that_the_kernel_has_killed_says_so(group: Path) -> None:
    with open_box() as box:
        project = box.project(main=GREEDY)
        done = box.run(project, "exec", "--json", "--", "python3", "main.py", str(group))
    assert events(done)[-1]["reason"] == "killed by SIGKILL (out of memory)"
