"""Which files of a container's root are opened, in their order, as the kernel tells it.

Owns a fanotify group, see fanotify(7): it sees every open of a file system, in whatever mount
namespace. Needs CAP_SYS_ADMIN on the box. Knows nothing of images.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

__all__ = ["OpenRecorder"]

_FAN_CLOEXEC, _FAN_NONBLOCK, _FAN_CLASS_NOTIF, _FAN_UNLIMITED_QUEUE = 0x1, 0x2, 0x0, 0x10
_FAN_MARK_ADD, _FAN_MARK_FILESYSTEM = 0x1, 0x100
_FAN_OPEN = 0x20
_AT_FDCWD = -100
_EVENT = struct.Struct("=IBBHQii")  # length, version, reserved, metadata length, mask, fd, pid
_READ_BYTES = 4096 * _EVENT.size
MAX_PATHS = 200_000


class OpenRecorder:
    """`fileno` is readable when there is something to `take`."""

    def __init__(self, mountpoint: str) -> None:
        """Raises OSError where the kernel does not let us."""
        libc = ctypes.CDLL(None, use_errno=True)
        flags = _FAN_CLASS_NOTIF | _FAN_CLOEXEC | _FAN_NONBLOCK | _FAN_UNLIMITED_QUEUE
        self._fd = _checked(libc.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC))
        self._paths: dict[bytes, None] = {}
        mark = libc.fanotify_mark
        mark.argtypes = [
            *(ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p)
        ]
        try:
            where = os.fsencode(mountpoint)
            _checked(
                mark(self._fd, _FAN_MARK_ADD | _FAN_MARK_FILESYSTEM, _FAN_OPEN, _AT_FDCWD, where)
            )
        except OSError:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        return self._fd

    def take(self) -> None:
        """Reads what is there now. Each event holds the file open: it is looked at and let go."""
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.EIO, errno.ETXTBSY):
                return  # that one file could not be opened for us
            raise
        at = 0
        while at + _EVENT.size <= len(data):
            length, _, _, _, _, fd, _ = _EVENT.unpack_from(data, at)
            at += length
            if fd >= 0:
                self._note(fd)

    def _note(self, fd: int) -> None:
        try:
            if len(self._paths) < MAX_PATHS:
                self._paths.setdefault(os.readlink(b"/proc/self/fd/%d" % fd))
        finally:
            os.close(fd)

    def close(self) -> list[bytes]:
        """The paths below the root, "/usr/bin/true" and the like, in the order of their opening."""
        before = -1
        while before != len(self._paths):
            before = len(self._paths)
            self.take()
        os.close(self._fd)
        return list(self._paths)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
