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
from devloop.cafs.tree import Dir, TreeInvalid

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from devloop.cafs.blobdir import Buffer
    from devloop.cafs.store import BlobStore
    from devloop.cafs.tree import Entry, File

    from .ahead import Ahead

__all__ = ["FileWriter", "Staging", "StagingDirectory", "discard", "remove"]

AHEAD = b"ahead"

IN_MEMORY_BYTES = 1 << 20  # a blob up to this size is read at once; the store may clone a larger
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class FileWriter:
    """Writes small files."""

    def __init__(self) -> None:
        self._unmasked: set[int] = set()  # modes that the umask, which stays the same, lets pass

    def write(self, directory_fd: int, name: bytes, entry: File, data: Buffer) -> None:
        """A new file. Raises OSError."""
        mode, _, mtime_ns, _ = entry
        fd = os.open(name, _CREATE, mode, dir_fd=directory_fd)
        try:
            write_all(fd, data)
            if mode not in self._unmasked:
                self._set_mode(fd, mode)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)

    def _set_mode(self, fd: int, mode: int) -> None:
        if os.fstat(fd).st_mode & 0o777 == mode:
            self._unmasked.add(mode)
        else:
            os.fchmod(fd, mode)


class StagingDirectory:
    """A workspace's `staging/`, empty between transitions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ahead = path / os.fsdecode(AHEAD)
        self.is_empty = True

    def discard(self) -> None:
        """Leaves it there, and empty. Raises OSError."""
        discard(self.path)
        self.is_empty = True

    def ensure_empty(self) -> None:
        if not self.is_empty:
            self.discard()


class Staging:
    """One pass of writing into `directory`. Raises what the store raises, and OSError."""

    def __init__(self, directory: Path, store: BlobStore, ahead: Ahead | None = None) -> None:
        """`ahead`, if any, was moved to its place below `directory`."""
        self._root = Root(directory)
        self._store = store
        self._ahead = ahead
        self._places = 0
        self._open_dir = b""
        self._open_fd = -1
        self._writer = FileWriter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._root.close()

    def new_place(self) -> bytes:
        self._places += 1
        return b"%d" % self._places

    def place_ahead(self, folder: bytes, name: bytes, entry: Entry) -> bytes | None:
        """Where the entry is already, if it is: a directory then lacks its mode, and may lack some
        of what is to be in it."""
        if self._ahead is None:
            return None
        path = folder + b"/" + name if folder else name
        is_there = (
            path in self._ahead.folders
            if isinstance(entry, Dir)
            else (self._ahead.holds(folder, name))
        )
        return AHEAD + b"/" + path if is_there else None

    @staticmethod
    def inside(directory: bytes, name: bytes) -> bytes | None:
        """A place in a staged directory; None when the kernel takes no path of that length."""
        place = directory + b"/" + name
        return place if len(place) <= MAX_PATH_BYTES else None

    def file(self, place: bytes, entry: File) -> int:
        """Returns its size. Raises TreeInvalid when the blob is not of the size that it says."""
        mode, size_bytes, mtime_ns, digest = entry
        if size_bytes > IN_MEMORY_BYTES and self._lent(place, entry):
            return size_bytes
        if size_bytes <= IN_MEMORY_BYTES:
            data = self._store.get(digest)
            _check_size(entry, len(data))
            self._writer.write(*self._parent(place), entry, data)
            return size_bytes
        directory_fd, name = self._parent(place)
        fd = os.open(name, _CREATE, mode, dir_fd=directory_fd)
        try:
            _check_size(entry, self._store.copy_to(digest, fd))
            os.fchmod(fd, mode)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)
        return size_bytes

    def _lent(self, place: bytes, entry: File) -> bool:
        """Has the store lent its own file? It is then written once, and has two names."""
        directory_fd, name = self._parent(place)
        size_bytes = self._store.lend(entry.digest, directory_fd, name)
        if size_bytes is None:
            return False
        _check_size(entry, size_bytes)
        os.chmod(name, entry.mode, dir_fd=directory_fd)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory_fd)
        return True

    def symlink(self, place: bytes, target: bytes) -> None:
        directory_fd, name = self._parent(place)
        os.symlink(target, name, dir_fd=directory_fd)

    def directory(self, place: bytes, mode: int, *, is_there: bool = False) -> None:
        directory_fd, name = self._parent(place)
        if not is_there:
            os.mkdir(name, 0o700, dir_fd=directory_fd)
        os.chmod(name, mode, dir_fd=directory_fd)

    def _parent(self, place: bytes) -> tuple[int, bytes]:
        # Entries come directory by directory, and no other call of the root comes in between.
        directory, _, name = place.rpartition(b"/")
        if directory != self._open_dir or self._open_fd < 0:
            self._open_fd = self._root.parent(place)[0]
            self._open_dir = directory
        return self._open_fd, name


def _check_size(entry: File, size_bytes: int) -> None:
    if size_bytes != entry.size_bytes:
        raise TreeInvalid(
            f"blob {entry.digest.short} has {size_bytes:,} bytes, not {entry.size_bytes:,}"
        )


def discard(directory: Path) -> None:
    """Leaves an empty directory there."""
    remove(directory)
    directory.mkdir(mode=0o700, exist_ok=True)


def remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
