"""What lies in a workspace's `files/`, where runs write as they like.

Owns looking: what is at a path, and whether it is as a tree says; also in directories to which a
run has taken away the rights. Refuses to know transitions: which trees count, the caller says.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from devloop.cafs.beneath import Root
from devloop.cafs.tree import Dir, File, Symlink

from .changes import entry_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import Self

    from devloop.cafs.tree import Entry, Node

__all__ = ["WorkspaceFiles", "ensure_directory"]


class WorkspaceFiles:
    """One pass over `directory`: its Root remembers directories, which runs may replace later."""

    def __init__(self, directory: Path) -> None:
        self.root = Root(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.root.close()

    def lstat(self, path: bytes) -> os.stat_result | None:
        try:
            return self.root.lstat(path)
        except PermissionError:
            self._unlock(path)
            return self.root.lstat(path)

    def names_in(self, directory: bytes) -> set[bytes]:
        """Empty when no directory is there."""
        try:
            return set(self.root.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except PermissionError:
            self._unlock(directory)
            return set(self.root.listdir(directory))

    def is_directory(self, path: bytes) -> bool:
        found = self.lstat(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def permitted(self, path: bytes, act: Callable[[], None]) -> None:
        """Runs `act`, again where a run has taken away the rights to a directory of its own."""
        try:
            act()
        except PermissionError:
            self._unlock(path)
            act()

    def _unlock(self, path: bytes) -> None:
        parts = path.split(b"/")
        for depth in range(1, len(parts) + 1):
            above = b"/".join(parts[:depth])
            found = self.root.lstat(above)
            if found is None or not stat.S_ISDIR(found.st_mode):
                return
            if found.st_mode & 0o700 != 0o700:
                self.root.chmod(above, stat.S_IMODE(found.st_mode) | 0o700)

    def is_of(self, bases: Iterable[Node], path: bytes, found: os.stat_result) -> bool:
        """Does what is at `path` look as one of these trees has it?"""
        return any(self.matches(path, found, entry_at(base, path)) for base in bases)

    def matches(self, path: bytes, found: os.stat_result, entry: Entry | None) -> bool:
        match entry:
            case File(_, size_bytes, mtime_ns, _):
                return (
                    stat.S_ISREG(found.st_mode)
                    and found.st_size == size_bytes
                    and found.st_mtime_ns == mtime_ns
                )
            case Symlink(target):
                return stat.S_ISLNK(found.st_mode) and self.root.readlink(path) == target
            case Dir():
                return stat.S_ISDIR(found.st_mode)
            case None:
                return False


def ensure_directory(directory: Path, place_aside: Callable[[], bytes]) -> bool:
    """True when a run had removed `files/`, or put something else in its place: that is renamed to
    what `place_aside` returns. Raises OSError."""
    try:
        mode = directory.lstat().st_mode
        if stat.S_ISDIR(mode):
            if mode & 0o700 != 0o700:
                directory.chmod(stat.S_IMODE(mode) | 0o700)
            return False
        os.rename(directory, place_aside())
    except FileNotFoundError:
        pass
    directory.mkdir(mode=0o700)
    return True
