"""File events from Linux's inotify, one watch a directory that is not ignored.

Beside `watchfiles` because it costs nothing while nothing happens (watchfiles wakes its caller
every few milliseconds to ask), says when events were lost, needs no watch for what is ignored,
and tells "written" from "being written". Uses the C library that Python itself is linked to;
where that has no inotify, `available()` is false and nothing else here is called.

No event is lost between a directory's making and its watch: the watch is set first, then the
directory is listed, then it is reported, and whoever looks at it looks later than that.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import struct
import sys
from functools import cache
from typing import TYPE_CHECKING

from .eventsource import WatchesExhausted
from .ignore import IGNORE_FILES

if TYPE_CHECKING:
    from pathlib import Path

    from .eventsource import Inbox, Watched

__all__ = ["InotifySource", "available"]

_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_UNMOUNT, _OVERFLOW, _IGNORED = 0x2000, 0x4000, 0x8000
_ONLYDIR, _DONT_FOLLOW, _EXCL_UNLINK, _ISDIR = 0x01000000, 0x02000000, 0x04000000, 0x40000000

_WANTED = (
    _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
    | _DELETE_SELF | _MOVE_SELF | _ONLYDIR | _EXCL_UNLINK
)  # fmt: skip
_APPEARED = _CREATE | _MOVED_TO
_GONE = _DELETE | _MOVED_FROM
_HALF_DONE = _MODIFY | _CREATE | _GONE
_DONE = _CLOSE_WRITE | _MOVED_TO
_ROOT_GONE = _DELETE_SELF | _MOVE_SELF | _UNMOUNT

_EVENT = struct.Struct("iIII")
_READ_BYTES = 1 << 18


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def available() -> bool:
    return sys.platform == "linux" and hasattr(_libc(), "inotify_init1")


class InotifySource:
    """Implements EventSource."""

    def __init__(self, root: Path, watched: Watched, inbox: Inbox) -> None:
        self._prefix = os.fsencode(root) + b"/"
        self._watched = watched
        self._inbox = inbox
        self._path_of: dict[int, bytes] = {}
        self._wd_of: dict[bytes, int] = {}
        self._loop = asyncio.get_running_loop()
        self._fd = _checked(_libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            self._watch_root()
            self.follow()
        except BaseException:
            os.close(self._fd)
            raise
        self._loop.add_reader(self._fd, self._readable)

    def follow(self) -> None:
        for path in self._watched.directories():
            if path not in self._wd_of and self._watch(path):
                # It may have changed between the scan that found it and its watch.
                self._inbox.touched(path)

    async def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _watch_root(self) -> None:
        wd = _checked(_libc().inotify_add_watch(self._fd, self._prefix, _WANTED))
        self._path_of[wd], self._wd_of[b""] = b"", wd

    def _watch(self, path: bytes) -> bool:
        """False for what is not a directory any more, or is closed to us."""
        full = self._prefix + path
        wd: int = _libc().inotify_add_watch(self._fd, full, _WANTED | _DONT_FOLLOW)
        if wd < 0:
            number = ctypes.get_errno()
            if number in (errno.ENOSPC, errno.ENOMEM):
                raise _exhausted(number)
            return False
        self._path_of[wd], self._wd_of[path] = path, wd
        return True

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
            self._take_all(data)
        except BlockingIOError:
            return
        except (OSError, WatchesExhausted) as error:
            self._inbox.failed(error)

    def _take_all(self, data: bytes) -> None:
        offset = 0
        while offset < len(data):
            wd, mask, _cookie, name_len = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = data[offset : offset + name_len].rstrip(b"\0")
            offset += name_len
            self._take(wd, mask, name)

    def _take(self, wd: int, mask: int, name: bytes) -> None:
        if mask & _OVERFLOW:
            self._inbox.lost("events were lost: the kernel's queue overflowed")
            return
        directory = self._path_of.get(wd)
        if directory is None:
            return  # a watch that was given up while its events were on the way
        if mask & _IGNORED:
            self._forget(wd, directory)
        if not name:
            if not directory and mask & _ROOT_GONE:
                self._inbox.failed(None)
            return
        path = directory + b"/" + name if directory else name
        if mask & _ISDIR:
            self._take_dir(mask, directory, path)
        else:
            self._take_file(mask, directory, name, path)

    def _take_file(self, mask: int, directory: bytes, name: bytes, path: bytes) -> None:
        if not self._watched.concerns(path, False):
            return
        self._inbox.touched(directory)
        known = self._watched.holds(path)
        if mask & _DONE and known:
            self._inbox.saved(path)
        elif mask & _DONE or (mask & _GONE and not known):
            # A new file may be renamed yet; a temporary one that went is not half a save.
            self._inbox.settled(path)
        elif mask & _HALF_DONE:
            self._inbox.unsettled(path)
        if name in IGNORE_FILES:
            self._inbox.rules_changed()

    def _take_dir(self, mask: int, directory: bytes, path: bytes) -> None:
        if mask & _MOVED_FROM:
            self._unwatch_below(path)
        if not self._watched.concerns(path, True):
            return
        self._inbox.touched(directory)
        if mask & _ATTRIB:
            self._inbox.touched(path)  # its mode is seen by who looks at it, not above it
        if mask & _APPEARED:
            self._watch_new(path)

    def _watch_new(self, path: bytes) -> None:
        if not self._watch(path):
            return
        self._inbox.touched(path)
        try:
            with os.scandir(self._prefix + path) as listing:
                names = [entry.name for entry in listing if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return
        for name in names:
            below = path + b"/" + name
            if self._watched.concerns(below, True):
                self._watch_new(below)

    def _unwatch_below(self, path: bytes) -> None:
        """A directory that moved away: its watches would report under the old name."""
        below = path + b"/"
        for other in [p for p in self._wd_of if p == path or p.startswith(below)]:
            wd = self._wd_of[other]
            _libc().inotify_rm_watch(self._fd, wd)
            self._forget(wd, other)

    def _forget(self, wd: int, path: bytes) -> None:
        del self._path_of[wd]
        if self._wd_of.get(path) == wd:
            del self._wd_of[path]


def _checked(value: int) -> int:
    if value >= 0:
        return value
    number = ctypes.get_errno()
    if number in (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise _exhausted(number)
    raise OSError(number, os.strerror(number))


def _exhausted(number: int) -> WatchesExhausted:
    setting = "max_user_instances" if number == errno.EMFILE else "max_user_watches"
    return WatchesExhausted(
        f"the system hands out no more file watches (fs.inotify.{setting} is used up)",
        hint=f"raise it: sudo sysctl fs.inotify.{setting}=524288",
    )
