"""What the kernel says about the processes of a benchmark. Linux only; starts and ends nothing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["command_line", "cpu_s", "peak_bytes", "pids_below", "pids_with"]

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def pids_with(marker: str) -> set[int]:
    """Processes whose environment holds `marker`, and everything below them; never this one."""
    sought, parents, found = os.fsencode(marker), {}, set()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            parents[pid] = int(_stat_fields(pid)[1])
            if sought in (entry / "environ").read_bytes():
                found.add(pid)
        except (OSError, IndexError):
            continue  # it has ended meanwhile, or is another user's
    return _with_descendants(found, parents) - {os.getpid()}


def pids_below(pid: int) -> set[int]:
    """Every process that `pid` or one of its descendants started, and that has not ended."""
    parents = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parents[int(entry.name)] = int(_stat_fields(int(entry.name))[1])
    return _with_descendants({pid}, parents) - {pid}


def _with_descendants(found: set[int], parents: dict[int, int]) -> set[int]:
    while below := {pid for pid, parent in parents.items() if parent in found} - found:
        found = found | below
    return found


def cpu_s(pids: set[int]) -> dict[int, float]:
    """User and system time so far, ended and awaited children included."""
    times = {}
    for pid in pids:
        try:
            times[pid] = sum(map(int, _stat_fields(pid)[11:15])) / _TICKS_PER_S
        except (OSError, IndexError):
            continue
    return times


def peak_bytes(pid: int) -> int:
    """The most memory that was ever resident; 0 for a process that is gone."""
    try:
        text = (_PROC / str(pid) / "status").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def command_line(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def _stat_fields(pid: int) -> list[str]:
    """From the state on: the name before it may hold spaces and parentheses."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
