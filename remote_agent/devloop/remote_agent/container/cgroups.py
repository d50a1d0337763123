"""Limits on what a container takes, where this box's control groups allow them.

Owns one group a container in each hierarchy that is needed: version 2, or version 1, or both side
by side. Where there is none, there are no limits, and `missing_limits` says so. Groups end empty,
with their container; who removes them is whoever outlives it. Only what runs in the container is in
them: its keeper and the server of its files are the agent's, and no limit of a run's counts or
kills them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "group_of",
    "join",
    "limit_files",
    "memory_kills",
    "missing_limits",
    "open_groups",
    "remove_groups",
    "victim_score",
]

_TOP = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000
_SPAWNER_BYTES = 64 << 20  # more than devloop's own processes in a container take
_WORST_SCORE = 1000
_EVENTS_1 = "memory.oom_control"


def group_of(folder: Path) -> str:
    """The name of the groups of the container whose folder this is, below a hierarchy's top."""
    return f"/devloop-{folder.name}"


def limit_files(memory_bytes: int, cpus: float, processes: int) -> list[list[str]]:
    """[controller, file of version 2, value, file of version 1, value] for each limit asked for."""
    quota = int(cpus * _PERIOD_US)
    wanted = []
    if memory_bytes:
        size = str(memory_bytes)
        wanted.append(["memory", "memory.max", size, "memory.limit_in_bytes", size])
    if cpus:
        both = f"{quota} {_PERIOD_US}"
        wanted.append(["cpu", "cpu.max", both, "cpu.cfs_quota_us", str(quota)])
    if processes:
        wanted.append(["pids", "pids.max", str(processes), "pids.max", str(processes)])
    return wanted


def open_groups(name: str, limits: Iterable[Iterable[str]]) -> list[int]:
    """Makes the groups; returns descriptors of files that take a pid. Raises OSError for a limit
    that this box has a controller for and does not set."""
    opened: dict[Path, int] = {}
    for controller, file2, value2, file1, value1 in limits:
        found = _hierarchy(controller)
        if found is None:
            continue
        top, version = found
        group = top / name.strip("/")
        group.mkdir(exist_ok=True)
        (group / (file2 if version == 2 else file1)).write_text(value2 if version == 2 else value1)
        if group not in opened:
            opened[group] = os.open(group / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    return list(opened.values())


def join(files: Iterable[int], pid: int) -> None:
    for fd in files:
        os.write(fd, b"%d" % pid)


def victim_score(memory_bytes: int) -> int:
    """What the processes of runs get as their oom_score_adj: when the limit is reached, any of
    them goes before the spawner, with which the container would end. 0: no limit.

    A thousandth is as much as a thousandth of the limit more memory.
    """
    if not memory_bytes:
        return 0
    return min(_WORST_SCORE, -(-_WORST_SCORE * _SPAWNER_BYTES // memory_bytes))


def memory_kills(name: str) -> int:
    """How many processes of the group the kernel has killed since its memory was at its limit."""
    found = _hierarchy("memory")
    if found is None:
        return 0
    top, version = found
    words = _words(top / name.strip("/") / ("memory.events" if version == 2 else _EVENTS_1))
    return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0


def missing_limits(limits: Iterable[Iterable[str]]) -> list[str]:
    """The controllers that were asked for, and that this box does not have."""
    return [controller for controller, *_ in limits if _hierarchy(controller) is None]


def remove_groups(prefix: str) -> None:
    """All whose names begin so and in which nobody lives."""
    for top in _tops():
        for group in top.glob(f"{prefix}*"):
            with contextlib.suppress(OSError):
                group.rmdir()


def _hierarchy(controller: str) -> tuple[Path, int] | None:
    """Where groups of that controller are made, and the hierarchy's version."""
    for top in (_TOP, _TOP / "unified"):
        if controller in _words(top / "cgroup.controllers"):
            return (top, 2) if _delegated(top, controller) and _is_ours(top) else None
    top = _TOP / controller
    return (top, 1) if (top / "cgroup.procs").exists() and _is_ours(top) else None


def _is_ours(top: Path) -> bool:
    """May groups be made there? Only root, and whoever was given all of it."""
    return os.access(top, os.W_OK)


def _delegated(top: Path, controller: str) -> bool:
    file = top / "cgroup.subtree_control"
    if controller not in _words(file):
        with contextlib.suppress(OSError):
            file.write_text(f"+{controller}")
    return controller in _words(file)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _tops() -> Iterator[Path]:
    yield _TOP
    for path in _TOP.glob("*/cgroup.procs"):
        yield path.parent
