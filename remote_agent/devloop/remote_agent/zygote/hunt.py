"""Ends every descendant of this process where no namespace does it. Reads /proc, sends signals.

The caller is their subreaper: a descendant whose parent ends becomes its child. So none is left
exactly when it has no child, living or dead; a look into /proc alone proves nothing, since a
program that forks and ends is faster than any look.
"""

from __future__ import annotations

import os
import select
import signal
from typing import Callable, Dict, Iterator, List, Set, Tuple

_INTERVAL_S = 0.002
_PF_EXITING = 4  # of the flags in /proc/PID/stat


def end_descendants(reap: Callable[[], bool]) -> None:
    """Returns when none is left. `reap` collects who has ended; False when there is no child."""
    while reap():
        if not _kill_descendants():
            select.select([], [], [], _INTERVAL_S)


def reap_all() -> bool:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def _kill_descendants() -> bool:
    """One round, to be repeated while there are children. False when it found nobody to kill."""
    killed = False
    for pid in living_descendants(os.getpid()):
        try:
            os.kill(pid, signal.SIGKILL)
            killed = True
        except ProcessLookupError:
            pass
    return killed


def children_of(pid: int) -> List[int]:
    """Those that have ended, too, until they are reaped."""
    return _children_now(pid) if _knows_children() else _children_of_all().get(pid, [])


def living_descendants(root: int) -> List[int]:
    """Near ones first."""
    children = _children_now if _knows_children() else None
    tree = {} if children else _children_of_all()
    found: List[int] = []
    seen: Set[int] = {root}
    frontier = [root]
    while frontier:
        pid = frontier.pop(0)
        born = [
            one for one in (children(pid) if children else tree.get(pid, [])) if one not in seen
        ]
        seen.update(born)
        found += born
        frontier += born
    return [pid for pid in found if _is_living(pid)]


def foreground_group(pid: int) -> int:
    """Of the terminal that controls `pid`; 0 when there is none."""
    try:
        return max(0, int(_stat_fields(str(pid))[5]))
    except (OSError, ValueError, IndexError):
        return 0


def _knows_children() -> bool:
    return os.path.exists("/proc/self/task/%d/children" % os.getpid())


def _children_now(pid: int) -> List[int]:
    """Also of threads other than the first."""
    born: List[int] = []
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, task)) as file:  # noqa: PTH123
                born += map(int, file.read().split())
    except OSError:
        pass
    return born


def _children_of_all() -> Dict[int, List[int]]:
    """For kernels without the list of children."""
    tree: Dict[int, List[int]] = {}
    for pid, parent in _processes():
        tree.setdefault(parent, []).append(pid)
    return tree


def _processes() -> Iterator[Tuple[int, int]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                yield int(name), int(_stat_fields(name)[1])
            except OSError:
                continue


def is_exiting(pid: int) -> bool:
    """It runs no more, although it may have to wait for others until it is gone."""
    try:
        fields = _stat_fields(str(pid))
    except OSError:
        return True
    return fields[0] in "ZX" or bool(int(fields[6]) & _PF_EXITING)


def _is_living(pid: int) -> bool:
    try:
        return _stat_fields(str(pid))[0] not in "ZX"
    except OSError:
        return False


def _stat_fields(pid: str) -> List[str]:
    """From `state` on; the command before it may hold blanks, brackets and any byte."""
    with open("/proc/%s/stat" % pid, "rb") as file:  # noqa: PTH123
        return file.read().rpartition(b")")[2].decode("ascii").split()
