"""A container's root, mounted by its keeper, in its own mount namespace.

Joins the two kinds of roots of `spec`: an image's is `cafs.mount`'s affair; a plain folder is the
lower layer of an overlay here. Always writable on top, always nosuid and nodev.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devloop.cafs.errors import DevloopError
from devloop.cafs.mount import MountFailed, mount_root
from devloop.cafs.mount.kernel import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, FileSystem, move_mount
from devloop.cafs.mount.namespace import is_first_user_namespace
from devloop.cafs.mount.targets import TargetRefused, open_in_root

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["RootRefused", "check_targets", "mount"]

# Runtimes follow a link in the place of these: runc 1.1 makes files of /dev where it leads, on the
# box.
_KERNELS_OWN = ("dev", "proc", "sys")


class RootRefused(DevloopError):
    """An image whose root could lead a runtime out of it."""

    hint = "/dev, /proc and /sys of an image must be directories, or missing"


def mount(
    root: dict[str, Any],
    served: Path | None,
    upper: Path,
    work: Path,
    target: Path,
    *,
    volatile: bool,
) -> None:
    """`root`: {folder}, or {level, metadata, blobs}; `served`: where its file server is mounted.

    Raises MountFailed, and RootRefused for a root that no runtime should be shown.
    """
    if "folder" in root:
        _mount_folder(Path(root["folder"]), upper, work, target, volatile)
    else:
        metadata, blobs = Path(root["metadata"]), Path(root["blobs"])
        level = root["level"]
        mount_root(level, metadata, blobs, served, upper, work, target, volatile=volatile)
    for name in _KERNELS_OWN:
        _ensure_directory(target / name)


def check_targets(root: Path, targets: Iterable[tuple[str, bool]]) -> None:
    """`targets`: where something of the box's is to be mounted, and whether it is a directory.
    What is missing is made. Raises TargetRefused: a runtime would stop with words of its own."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for target, is_dir in targets:
            _check_target(root_fd, os.fsencode(target), is_dir=is_dir)
    finally:
        os.close(root_fd)


def _check_target(root_fd: int, target: bytes, *, is_dir: bool) -> None:
    fd = open_in_root(root_fd, target, "dir" if is_dir else "file")
    found = stat.S_ISDIR(os.fstat(fd).st_mode)
    os.close(fd)
    if found != is_dir:
        words = ("a file", "a folder")
        raise TargetRefused(target, f"it is {words[found]}, and what comes there {words[is_dir]}")


def _ensure_directory(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        path.mkdir(mode=0o755)
        return
    if not stat.S_ISDIR(mode):
        raise RootRefused(f"the image's /{path.name} is no directory")


def _mount_folder(lower: Path, upper: Path, work: Path, target: Path, volatile: bool) -> None:
    fds: list[int] = []
    try:
        # Named by descriptors, no path needs its ":" and "," escaped.
        for path in (lower, upper, work, target):  # one by one: those before a failure are closed
            fds.append(  # noqa: PERF401
                os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            )
        overlay = _overlay(fds[:3], volatile)
        fds.append(overlay)
        move_mount(overlay, fds[3])
    except OSError as error:
        raise MountFailed(target, error) from error
    finally:
        for fd in fds:
            os.close(fd)


def _overlay(fds: Iterable[int], volatile: bool) -> int:
    with FileSystem("overlay") as overlay:
        for name, fd in zip(("lowerdir", "upperdir", "workdir"), fds, strict=True):
            overlay.set(name, f"/proc/self/fd/{fd}")
        overlay.set("xino", "on")
        if is_first_user_namespace():  # as `cafs.mount.root` has it for images, and for its reasons
            overlay.set("redirect_dir", "on")
            overlay.set("index", "on")
        else:
            overlay.set("userxattr")
        if volatile:
            overlay.set("volatile")
        return overlay.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
