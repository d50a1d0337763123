"""Where inside an image's root something may be mounted, and mounting it there.

An image is made by a stranger: any part of a path in it may be a link. What is mounted at a path is
therefore given a descriptor of the place, found as a process in that root would find it, and never
a path: nothing can be exchanged in between, and no link leads out.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Literal

from devloop.cafs.errors import DevloopError

from .kernel import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    clone_tree,
    move_mount,
    openat2_in_root,
    set_attributes,
)

__all__ = ["TargetRefused", "bind_mount", "open_in_root"]

_MOST_LINKS = 40  # as the kernel has it
_OURS = frozenset({b"proc", b"sys", b"dev"})
_LOOK = os.O_PATH | os.O_NOFOLLOW
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class TargetRefused(DevloopError):
    """Nothing can be mounted at that path of an image, or it would be unsafe."""

    hint = "choose another path in the container, or an image without that link"

    def __init__(self, path: bytes, reason: str) -> None:
        super().__init__(f"cannot mount at {os.fsdecode(path)!r} in the image: {reason}")
        self.path = path


def open_in_root(
    root_fd: int, path: bytes, make: Literal["dir", "file"] | None = None, *, follow: bool = True
) -> int:
    """A descriptor (O_PATH) of what `path` is in the root `root_fd`; the caller closes it.

    `make` says what to make of the path when it is missing; missing parents are made as
    directories. Links are followed within the root; `follow=False` refuses any. A link must not
    lead into /proc, /sys or /dev from elsewhere, and nothing to the root itself. Raises
    TargetRefused.
    """
    try:
        resolved = _resolved(root_fd, path, make, follow)
        if not resolved:
            raise TargetRefused(path, "it is the root itself")
        if resolved[0] in _OURS and resolved[0] != _components(path)[0]:
            raise TargetRefused(path, f"a link leads to {_joined(resolved)!r}")
        return openat2_in_root(root_fd, _joined(resolved), _LOOK)
    except OSError as error:
        reason = (error.strerror or str(error)).removeprefix("openat2: ")
        raise TargetRefused(path, reason) from error


def bind_mount(
    source_fd: int,
    target_fd: int,
    attributes: int = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
    *,
    recursive: bool = False,
) -> None:
    """Mounts what is open as `source_fd` at `target_fd`, both of a kind. Raises OSError.

    The attributes are there before the mount can be seen.
    """
    mount_fd = clone_tree(source_fd, recursive=recursive)
    try:
        set_attributes(mount_fd, attributes, recursive=recursive)
        move_mount(mount_fd, target_fd)
    finally:
        os.close(mount_fd)


def _resolved(root_fd: int, path: bytes, make: str | None, follow: bool) -> list[bytes]:
    """`path` without links and dots; every part of it was there, or has been made."""
    done: list[bytes] = []
    waiting = _components(path)[::-1]
    links = 0
    while waiting:
        name = waiting.pop()
        if name == b"..":
            del done[-1:]
            continue
        target = _link_target(root_fd, [*done, name], make if not waiting else make and "dir")
        if target is None:
            done.append(name)
            continue
        links += 1
        if links > _MOST_LINKS or not follow:
            raise OSError(errno.ELOOP, f"{_joined([*done, name])!r} is a link")
        if target.startswith(b"/"):
            done.clear()
        waiting += _components(target)[::-1]
    return done


def _link_target(root_fd: int, parts: list[bytes], make: str | None) -> bytes | None:
    """Where the link points; None for anything else, which is made when it is missing."""
    path = _joined(parts)
    try:
        fd = openat2_in_root(root_fd, path, _LOOK)
    except FileNotFoundError:
        if make is None:
            raise
        _make(root_fd, parts, make)
        return None
    try:
        return os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def _make(root_fd: int, parts: list[bytes], kind: str) -> None:
    parent_fd = openat2_in_root(root_fd, _joined(parts[:-1]) or b".", _DIRECTORY)
    try:
        if kind == "dir":
            os.mkdir(parts[-1], 0o755, dir_fd=parent_fd)
        else:
            os.close(os.open(parts[-1], _CREATE, 0o644, dir_fd=parent_fd))
    finally:
        os.close(parent_fd)


def _components(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]


def _joined(parts: list[bytes]) -> bytes:
    return b"/".join(parts)
