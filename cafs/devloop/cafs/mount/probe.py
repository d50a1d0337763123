"""Which ways to mount an image this machine has: each is tried, as `tries` does it.

A try is a process of its own, so it changes nothing here, and one that hangs is killed.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from .root import LevelName

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["MountLevel", "probe"]

_LEVELS: tuple[LevelName, ...] = ("erofs+overlay", "tmpfs+overlay", "fuse+overlay", "unpacked")
_DEADLINE_S = 15.0


class MountLevel(NamedTuple):
    """The best way that works, and for each better one what was said against it."""

    name: LevelName
    why: str = ""  # empty: there is no better one
    hint: str = ""


class _Failure(NamedTuple):
    level: LevelName
    reason: str
    errno: int = 0
    hint: str = ""


def probe(directory: Path | None = None) -> MountLevel:
    """Tries the levels from the best one on; each try takes some 100 ms.

    `directory` is where images are kept: whether an overlay can write there depends on its file
    system. `unpacked` is the answer also where nothing at all can be mounted; its `why` says so.
    """
    failures: list[_Failure] = []
    for level in _LEVELS:
        failure = _try(level, directory)
        if failure is None:
            return _level(level, failures)
        failures.append(failure)
    return _level("unpacked", failures)


def _level(name: LevelName, failures: Sequence[_Failure]) -> MountLevel:
    why = "; ".join(f"{failure.level}: {failure.reason}" for failure in failures)
    hints = [failure.hint or _hint(failure) for failure in reversed(failures)]
    return MountLevel(name, why, "; better: ".join(dict.fromkeys(filter(None, hints))))


def _try(level: LevelName, directory: Path | None) -> _Failure | None:
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=directory) as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-m", f"{__package__}.tries", level, folder],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_DEADLINE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return _Failure(level, f"no answer in {_DEADLINE_S:g} s")
    if done.stdout:
        return _Failure(level, **json.loads(done.stdout))
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return _Failure(level, said[-1])
    return None


def _hint(failure: _Failure) -> str:
    """What would raise the level."""
    match failure.errno:
        case errno.EPERM | errno.EACCES:
            return "run the agent as root of the machine, or in a container with CAP_SYS_ADMIN"
        case errno.ENODEV | errno.EPROTONOSUPPORT:
            return "load the kernel modules: modprobe -a erofs overlay loop"
        case errno.EINVAL:
            return "images need Linux 6.5 or later, and a local disk such as ext4 or xfs"
        case errno.ENOSYS:
            return "images need Linux 6.5 or later"
        case _:
            return ""
