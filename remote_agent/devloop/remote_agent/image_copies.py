"""Plain copies of images, for boxes where none can be mounted.

Owns IMAGES/unpacked/DIGEST, a whole copy, and IMAGES/unpacked/.tmp-DIGEST, one that is being made
or was left by a killed agent. Refuses to know what images are called, and who uses a copy.
"""

from __future__ import annotations

import contextlib
import os
import stat
from threading import Lock
from typing import TYPE_CHECKING

from devloop.cafs.images import ImageMissing
from devloop.cafs.syscalls import sync_filesystem

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

    from devloop.cafs.digest import Digest
    from devloop.cafs.errors import Problem
    from devloop.cafs.images import ImageStore

__all__ = ["ImageCopies"]

_TEMP_PREFIX = ".tmp-"


class ImageCopies:
    """For many threads; only `path` does not block."""

    def __init__(self, root: Path) -> None:
        """`root`: that of the images."""
        self._folder = root / "unpacked"
        self._lock = Lock()

    def path(self, index: Digest) -> Path:
        """Raises ImageMissing when it was not made."""
        folder = self._folder / index.hex()
        if not folder.is_dir():
            raise ImageMissing(f"no copy of the image {index.short} on this box")
        return folder

    def ensure(self, store: ImageStore, index: Digest) -> list[Problem]:
        """Makes it unless it is there. Returns what had to be left out of it.

        Raises what `unpack` raises, and UnpackFailed.
        """
        with self._lock:  # two would write into one another's
            if (self._folder / index.hex()).is_dir():
                return []
            return self._make(store, index)

    def _make(self, store: ImageStore, index: Digest) -> list[Problem]:
        from devloop.cafs.mount.within import remove_trees

        temp = self._folder / f"{_TEMP_PREFIX}{index.hex()}"
        remove_trees([temp])
        temp.mkdir(mode=0o755, parents=True)
        try:
            problems = _unpack(store, index, temp)
        except BaseException:
            remove_trees([temp])  # it takes the room that whoever tries again needs
            raise
        temp.rename(self._folder / index.hex())
        return problems

    def collect(self, live: Container[str]) -> int:
        """Removes all but those of the indexes in `live`, hex. Returns the bytes they had."""
        from devloop.cafs.mount.within import remove_trees

        with self._lock:
            names = os.listdir(self._folder) if self._folder.is_dir() else []
            doomed = [n for n in names if n.removeprefix(_TEMP_PREFIX) not in live]
            paths = [self._folder / name for name in doomed]
            size_bytes = sum(map(_size_bytes, paths))
            remove_trees(paths)
        return size_bytes


def _unpack(store: ImageStore, index: Digest, folder: Path) -> list[Problem]:
    """All of it is durable then: a copy that has its name is a whole one."""
    from devloop.cafs.mount import unpack
    from devloop.cafs.mount.namespace import may_mount
    from devloop.cafs.mount.unpacking import unpack_within

    problems: list[Problem] = []
    target = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if may_mount():
            problems = unpack(store.index(index), store.blobs, target)
        else:
            unpack_within(store.root, index, folder)
        if not sync_filesystem(target):
            os.sync()
    finally:
        os.close(target)
    return problems


def _size_bytes(folder: Path) -> int:
    return sum(found.st_size for found in _files(folder))


def _files(folder: Path) -> Iterator[os.stat_result]:
    waiting = [os.fspath(folder)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    waiting.append(entry.path)
                elif stat.S_ISREG(found.st_mode):
                    yield found
