"""System calls that the `os` module lacks, each with what to do where it does not exist.

Imports on any POSIX system. Knows nothing of blobs or trees.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys

__all__ = [
    "clone_file",
    "flush_file",
    "openat2_beneath",
    "rename_exclusive",
    "sync_filesystem",
]

_LINUX = sys.platform == "linux"
_UNSUPPORTED = frozenset(
    {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EXDEV}
)
_RENAME_NOREPLACE = 1
_FICLONE = 0x40049409
_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_OPEN_HOW = struct.Struct("=QQQ")  # flags, mode, resolve

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None) if _LINUX else None
_syncfs = getattr(_libc, "syncfs", None) if _LINUX else None
if _renameat2 is not None:
    _renameat2.argtypes = (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_uint,
    )
_syscall = _libc.syscall if _LINUX else None
if _syscall is not None:  # as openat2 takes them; nothing else uses it
    _syscall.argtypes = (
        ctypes.c_long,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
    )


def _last_error(path: str | bytes) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def rename_exclusive(source: str, target: str, dir_fd: int) -> None:
    """Renames within the directory `dir_fd`. Raises FileExistsError when `target` is there.

    A file system with neither RENAME_NOREPLACE nor hard links overwrites instead.
    """
    if _renameat2 is not None:
        old, new = source.encode(), target.encode()
        if _renameat2(dir_fd, old, dir_fd, new, _RENAME_NOREPLACE) == 0:
            return
        error = _last_error(target)
        if error.errno not in _UNSUPPORTED:
            raise error
    _link_exclusive(source, target, dir_fd)


def _link_exclusive(source: str, target: str, dir_fd: int) -> None:
    try:
        os.link(source, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        os.rename(source, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    else:
        os.unlink(source, dir_fd=dir_fd)


def clone_file(source_fd: int, target_fd: int) -> bool:
    """Makes the target share the source's blocks. False where the file system cannot."""
    if not _LINUX:
        return False
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno in _UNSUPPORTED or error.errno == errno.ENOTTY:
            return False
        raise
    return True


def flush_file(fd: int) -> None:
    """fsync that reaches the medium on macOS too."""
    full_fsync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_fsync is not None:
        try:
            fcntl.fcntl(fd, full_fsync)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            return
    os.fsync(fd)


def sync_filesystem(fd: int) -> bool:
    """Makes everything written to the file system of `fd` durable. False where it cannot.

    Write-back errors since `fd` was opened raise, so keep that descriptor open across writes.
    """
    if _syncfs is None:
        return False
    if _syncfs(fd) == 0:
        return True
    error = _last_error("")
    if error.errno == errno.ENOSYS:
        return False
    raise error


def openat2_beneath(root_fd: int, path: bytes, flags: int) -> int | None:
    """Opens `path` so that no part of it leaves `root_fd` or is a symbolic link.

    None where the kernel, or a container's seccomp filter, does not offer openat2.
    """
    if not _LINUX or _syscall is None:
        return None
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)
    fd: int = _syscall(_SYS_OPENAT2, root_fd, path, how, len(how))
    if fd >= 0:
        return fd
    error = _last_error(path)
    if error.errno in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
        return None
    raise error
