"""Operations beneath one directory that no path can lead out of.

Owns the check of every path and the resolution of its parents: no `..`, no absolute path, no
symbolic link in the middle, whoever changes the directories meanwhile. The last component is
never followed either. Refuses to know what the files mean.

Paths are bytes, components joined by "/", as in trees.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING

from .errors import DevloopError
from .syscalls import openat2_beneath

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

__all__ = ["PathEscapes", "Root"]

MAX_PATH_BYTES = 4095
_OPEN_DIRS = 32  # of the cache: callers walk a tree in order, so few are in use at a time
_NO_COMPONENT = frozenset({b"", b".", b".."})
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# O_NONBLOCK: opening a FIFO must not wait for its other end.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class PathEscapes(DevloopError):
    """A path that could name something outside its root."""

    hint = "the sender is broken or hostile; if it is devloop itself, report it"

    def __init__(self, path: bytes) -> None:
        super().__init__(f"not a path below a directory: {path[:80]!r}")
        self.path = path


class Root:
    """A directory, and file operations that stay beneath it.

    Every operation raises PathEscapes for a hostile path, NotADirectoryError when a parent is a
    symbolic link or a file, and OSError as the `os` module does.

    Not for several threads at once: descriptors that `parent` lends are closed by later calls.
    Open directories are remembered. One that somebody else renames stays the same directory here
    until `forget`, so keep a Root for one pass over a tree, not for the life of a process.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._dirs: OrderedDict[bytes, int] = OrderedDict()

    def close(self) -> None:
        self.forget()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def parent(self, path: bytes, *, create: bool = False) -> tuple[int, bytes]:
        """The directory that holds `path`, and the name in it.

        The descriptor is lent: it is good until the next call of any method.
        `create` makes the directories that are missing.
        """
        _check(path)
        directory, _, name = path.rpartition(b"/")
        return (self._directory(directory, create) if directory else self._fd), name

    def forget(self, path: bytes = b"") -> None:
        """Closes what is remembered at and below `path`; b"" is everything.

        Call it when a directory was removed or replaced by other means than this object.
        """
        below = path + b"/"
        for known in [key for key in self._dirs if not path or (key + b"/").startswith(below)]:
            os.close(self._dirs.pop(known))

    # ------------------------------------------------------------------ looking

    def lstat(self, path: bytes) -> os.stat_result | None:
        """None when nothing is there."""
        try:
            parent_fd, name = self.parent(path)
            return os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def readlink(self, path: bytes) -> bytes:
        parent_fd, name = self.parent(path)
        return os.readlink(name, dir_fd=parent_fd)

    def listdir(self, path: bytes) -> list[bytes]:
        """The names in a directory; b"" is the root itself."""
        if not path:
            return _names_in(self._fd)
        _check(path)
        return _names_in(self._directory(path, create=False))

    def open_read(self, path: bytes) -> int:
        """A descriptor of a regular file; the caller closes it. OSError for any other kind."""
        parent_fd, name = self.parent(path)
        fd = os.open(name, _READ, dir_fd=parent_fd)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)

    # ------------------------------------------------------------------ changing

    def create(self, path: bytes, mode: int = 0o600) -> int:
        """A descriptor for writing to a new file of exactly that mode; the caller closes it."""
        parent_fd, name = self.parent(path, create=True)
        fd = os.open(name, _CREATE, mode, dir_fd=parent_fd)
        try:
            os.fchmod(fd, mode)  # open subtracts the umask
        except BaseException:
            os.close(fd)
            raise
        return fd

    def replace(self, source: bytes, target: bytes) -> None:
        """Renames. The parent of `target` is made when it is missing."""
        target_fd, target_name = self.parent(target, create=True)
        # This second call opens one directory at most, so it cannot evict the first.
        source_fd, source_name = self.parent(source)
        os.replace(source_name, target_name, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        self.forget(source)
        self.forget(target)

    def unlink(self, path: bytes) -> None:
        parent_fd, name = self.parent(path)
        os.unlink(name, dir_fd=parent_fd)

    def mkdir(self, path: bytes, mode: int = 0o755) -> None:
        """`mode` is less the umask."""
        parent_fd, name = self.parent(path, create=True)
        os.mkdir(name, mode, dir_fd=parent_fd)

    def rmdir(self, path: bytes) -> None:
        parent_fd, name = self.parent(path)
        os.rmdir(name, dir_fd=parent_fd)
        self.forget(path)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Makes a link at `path`; where it points is not looked at."""
        parent_fd, name = self.parent(path, create=True)
        os.symlink(target, name, dir_fd=parent_fd)

    def chmod(self, path: bytes, mode: int) -> None:
        """OSError when `path` is a symbolic link."""
        parent_fd, name = self.parent(path)
        try:
            os.chmod(name, mode, dir_fd=parent_fd, follow_symlinks=False)
        except (NotImplementedError, ValueError):  # a link, or a C library that cannot say
            _chmod_by_descriptor(parent_fd, name, mode)

    def utime_ns(self, path: bytes, mtime_ns: int) -> None:
        parent_fd, name = self.parent(path)
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent_fd, follow_symlinks=False)

    # ------------------------------------------------------------------ directories

    def _directory(self, path: bytes, create: bool) -> int:
        fd = self._dirs.get(path)
        if fd is not None:
            self._dirs.move_to_end(path)
            return fd
        try:
            fd = _open_directory(self._fd, path)
        except FileNotFoundError:
            if not create:
                raise
            self._make_directory(path)
            fd = _open_directory(self._fd, path)
        self._remember(path, fd)
        return fd

    def _make_directory(self, path: bytes) -> None:
        """Makes `path` and the parents that are missing, one by one from the top."""
        made = b""
        for component in path.split(b"/"):
            made = made + b"/" + component if made else component
            parent_fd, name = self.parent(made)
            try:
                os.mkdir(name, 0o755, dir_fd=parent_fd)
            except FileExistsError:
                continue

    def _remember(self, path: bytes, fd: int) -> None:
        self._dirs[path] = fd
        if len(self._dirs) > _OPEN_DIRS:
            os.close(self._dirs.popitem(last=False)[1])


def _check(path: bytes) -> None:
    if (
        len(path) > MAX_PATH_BYTES
        or b"\0" in path
        or not _NO_COMPONENT.isdisjoint(path.split(b"/"))
    ):
        raise PathEscapes(path)


def _open_directory(root_fd: int, path: bytes) -> int:
    try:
        fd = openat2_beneath(root_fd, path, _DIRECTORY)
        return fd if fd is not None else _walk(root_fd, path)
    except OSError as error:
        # One answer for a link and for a file, on every system.
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
        raise


def _walk(root_fd: int, path: bytes) -> int:
    """Opens component by component, none of them a link. `path` has been checked."""
    fd = root_fd
    for component in path.split(b"/"):
        try:
            below = os.open(component, _DIRECTORY, dir_fd=fd)
        finally:
            if fd != root_fd:
                os.close(fd)
        fd = below
    return fd


def _chmod_by_descriptor(parent_fd: int, name: bytes, mode: int) -> None:
    """chmod without following, for Linux with a C library before 2.32."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent_fd)
    try:
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            raise OSError(errno.EOPNOTSUPP, "a symbolic link has no mode", name)
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def _names_in(fd: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(fd)]
