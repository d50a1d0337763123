"""Mounting an image's metadata: a file with an EROFS file system in it, or files of a tmpfs."""

from __future__ import annotations

import errno
import fcntl
import os
from struct import Struct
from typing import TYPE_CHECKING

from devloop.cafs.index import Index

from .kernel import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    FileSystem,
    set_attributes,
)
from .unpack import write_tree

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["mount_metadata", "mount_tree"]

_ATTRIBUTES = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR = 1, 4
# struct loop_config: file, block size, then struct loop_info64, of which only the flags are given.
_LOOP_CONFIG = Struct("=II52xI176x64x")
_TRIES = 20


def mount_metadata(path: Path) -> int:
    """A mount of the EROFS file `path`, nowhere yet; the caller closes it.

    By the file itself (Linux 6.12), else by a loop device, which is gone with the mount. Raises
    OSError with the kernel's words.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            return _mount(f"/proc/self/fd/{fd}")
        except OSError as error:
            if error.errno != errno.ENOTBLK:
                raise
        return _mount_by_loop(fd)
    finally:
        os.close(fd)


def mount_tree(index: Path) -> int:
    """As `mount_metadata`, of an encoded index: every file is made, on a tmpfs of its own.

    Takes some 20 µs of time and 1 KiB of memory for each. Raises OSError and IndexInvalid.
    """
    with FileSystem("tmpfs") as tmpfs:
        tmpfs.set("mode", "0755")
        mount_fd = tmpfs.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
    try:
        folder_fd = os.open(f"/proc/self/fd/{mount_fd}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            write_tree(Index.decode(index.read_bytes()), folder_fd)
        finally:
            os.close(folder_fd)
        set_attributes(mount_fd, _ATTRIBUTES, recursive=False)
    except BaseException:
        os.close(mount_fd)
        raise
    return mount_fd


def _mount(source: str) -> int:
    with FileSystem("erofs") as erofs:
        erofs.set("source", source)
        erofs.set("ro")
        return erofs.mount(_ATTRIBUTES)


def _mount_by_loop(file_fd: int) -> int:
    loop_fd, path = _loop_device(file_fd)
    try:
        return _mount(path)
    finally:
        os.close(loop_fd)  # AUTOCLEAR: then the mount is its last user


def _loop_device(file_fd: int) -> tuple[int, str]:
    """A loop device that shows the file read-only. Others may take the free one we were told."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for attempt in range(_TRIES):
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                flags = _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR
                fcntl.ioctl(fd, _LOOP_CONFIGURE, _LOOP_CONFIG.pack(file_fd, 0, flags))
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY or attempt == _TRIES - 1:
                    raise
            else:
                return fd, path
    finally:
        os.close(control)
    raise AssertionError("the last try returns or raises")
