"""What the kernel has said of a process that it killed for want of memory.

Reads the kernel's log, where that is allowed: to root, or where dmesg is not restricted. Knows no
run.
"""

from __future__ import annotations

import os
import re
import time

__all__ = ["killed_line"]

_LOG = "/dev/kmsg"
_RECORD_BYTES = 8192  # the kernel's own bound
# "3,7022,1824312906,-;Memory cgroup out of memory: Killed process 22087 (python3) total-vm:…"
_KILLED = re.compile(
    r"\d+,\d+,(?P<time_us>\d+),[^;]*;(?P<line>\S.*[Oo]ut of memory: Killed process (?P<pid>\d+) .*)"
)


def killed_line(pid: int, lived_s: float, *, log: str = _LOG) -> str:
    """The kernel's line on process `pid`, or with 0 on any that it has killed in the last `lived_s`
    seconds. Empty: it has said nothing, or we may not read it."""
    since_us = (time.clock_gettime(time.CLOCK_MONOTONIC) - lived_s - 1.0) * 1e6
    found = ""
    for record in _records(log):
        match = _KILLED.match(record)
        if match and int(match["time_us"]) >= since_us and pid in (0, int(match["pid"])):
            found = match["line"]
    return found


def _records(log: str) -> list[str]:
    """All that the kernel still has, oldest first."""
    try:
        fd = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    records = []
    try:
        while data := _next_record(fd):
            records.append(data.decode("utf-8", "replace").partition("\n")[0])
    except OSError:  # all is read, or it may not be read
        pass
    finally:
        os.close(fd)
    return records


def _next_record(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, _RECORD_BYTES)
        except BrokenPipeError:
            continue  # the oldest was overwritten meanwhile; the next one is there
