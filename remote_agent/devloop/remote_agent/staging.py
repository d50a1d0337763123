"""Staging: new files, links and directories on their way into a workspace.

Owns one directory, and how a tree's entries are written there with their content, mode and time.
Refuses to know where they go. A place is a path below the directory.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from devloop.cafs.beneath import MAX_PATH_BYTES, Root
from devloop.cafs.blobdir import write_all
from devloop.cafs.tree import TreeInvalid

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from devloop.cafs.store import BlobStore
    from devloop.cafs.tree import File

__all__ = ["Staging", "discard"]

IN_MEMORY_BYTES = 1 << 20  # a blob up to this size is read at once; the store may clone a larger
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Staging:
    """One pass of writing into `directory`. Raises what the store raises, and OSError."""

    def __init__(self, directory: Path, store: BlobStore) -> None:
        self._root = Root(directory)
        self._store = store
        self._places = 0
        self._open_dir = b""
        self._open_fd = -1
        self._unmasked: set[int] = set()  # modes that the umask, which stays the same, lets pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._root.close()

    def new_place(self) -> bytes:
        self._places += 1
        return b"%d" % self._places

    @staticmethod
    def inside(directory: bytes, name: bytes) -> bytes | None:
        """A place in a staged directory; None when the kernel takes no path of that length."""
        place = directory + b"/" + name
        return place if len(place) <= MAX_PATH_BYTES else None

    def file(self, place: bytes, entry: File) -> int:
        """Returns its size. Raises TreeInvalid when the blob is not of the size that it says."""
        mode, size_bytes, mtime_ns, digest = entry
        # Read first: a blob that is missing leaves no file.
        data = self._store.get(digest) if size_bytes <= IN_MEMORY_BYTES else None
        directory_fd, name = self._parent(place)
        fd = os.open(name, _CREATE, mode, dir_fd=directory_fd)
        try:
            if data is None:
                written = self._store.copy_to(digest, fd)
            else:
                write_all(fd, data)
                written = len(data)
            if written != size_bytes:
                raise TreeInvalid(f"blob {digest.short} has {written:,} bytes, not {size_bytes:,}")
            if mode not in self._unmasked:
                self._set_mode(fd, mode)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)
        return written

    def _set_mode(self, fd: int, mode: int) -> None:
        if os.fstat(fd).st_mode & 0o777 == mode:
            self._unmasked.add(mode)
        else:
            os.fchmod(fd, mode)

    def symlink(self, place: bytes, target: bytes) -> None:
        directory_fd, name = self._parent(place)
        os.symlink(target, name, dir_fd=directory_fd)

    def directory(self, place: bytes, mode: int) -> None:
        directory_fd, name = self._parent(place)
        os.mkdir(name, 0o700, dir_fd=directory_fd)
        os.chmod(name, mode, dir_fd=directory_fd)

    def _parent(self, place: bytes) -> tuple[int, bytes]:
        # Entries come directory by directory, and no other call of the root comes in between.
        directory, _, name = place.rpartition(b"/")
        if directory != self._open_dir or self._open_fd < 0:
            self._open_fd = self._root.parent(place)[0]
            self._open_dir = directory
        return self._open_fd, name


def discard(directory: Path) -> None:
    """Leaves an empty directory there."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, exist_ok=True)
