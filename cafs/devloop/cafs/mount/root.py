"""An image's root as one mount.

Owns which layers and options each level takes. Refuses to know how blobs come to be in their
folder, and who lives in the root. Everything is mounted in the caller's mount namespace, which
should be a private one (`namespace`): then nothing is seen outside it, and all of it ends with it.

Each level shows the same tree; they differ in who answers:

    erofs+overlay   metadata (EROFS) :: folder of blobs [:: FUSE view of blobs]. The kernel answers
                    but for blobs that are missing. Linux 6.5, CAP_SYS_ADMIN in the first user
                    namespace
    tmpfs+overlay   the same with metadata that is made as files at each mount. For kernels that
                    have no EROFS, and in a user namespace, Linux 6.16
    fuse+overlay    FUSE view of the whole tree, an overlay on top where it is to be writable. Also
                    in a user namespace, Linux 5.11
    unpacked        a plain copy

Options of the overlay, and why
    nosuid,nodev    an overlay does not inherit them from its layers: an image's setuid file would
                    be root for any local user
    metacopy        a file's bytes are another layer's. chown and chmod then copy no bytes up either
    redirect_dir    `on` with an upper: directories can be renamed, and metacopy asks for it.
                    `follow` without
    xino=on         with an upper: one st_dev for the whole root, as `find -xdev` and `du -x` want
    index=on        hard links stay links when they are written to. It also keeps an upper to the
                    one image that it was begun with (ESTALE), and to one root at a time (EBUSY)
    volatile        for an upper that is thrown away: fsync returns at once
    userxattr       in a user namespace, where trusted.* cannot be set; it excludes metacopy and
                    redirects: renaming a directory of the image is EXDEV. Nor is there an index,
                    for which only root of the machine may open files by handle: hard links of the
                    image part when one of them is written to

Layers are named by descriptors (/proc/self/fd/N): no path is too long for fsconfig(2), and none
needs its ":" and "," escaped.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal, NamedTuple

from devloop.cafs.errors import DevloopError

from .kernel import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    FileSystem,
    clone_tree,
    move_mount,
    set_attributes,
    unmount,
)
from .metadata import mount_metadata, mount_tree
from .namespace import is_first_user_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["LevelName", "MountFailed", "mount_root"]

LevelName = Literal["erofs+overlay", "tmpfs+overlay", "fuse+overlay", "unpacked"]

_SAFE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
_METADATA = {"erofs+overlay": mount_metadata, "tmpfs+overlay": mount_tree}


class MountFailed(DevloopError):
    """The kernel would not mount an image's root. The message ends with its words."""

    hint = "`devloop doctor` says which ways to mount an image this machine has"

    def __init__(self, target: Path, error: OSError) -> None:
        self.reason = error.strerror or str(error)
        self.errno = error.errno
        super().__init__(f"cannot mount the image at {target}: {self.reason}")


def mount_root(
    level: LevelName,
    metadata: Path | None,
    blobs: Path | None,
    fuse: Path | None,
    upper: Path | None,
    work: Path | None,
    target: Path,
    *,
    volatile: bool = False,
) -> None:
    """Mounts an image's root at the directory `target`, always nosuid and nodev.

    erofs+overlay: `metadata` is what `write_metadata` made, `blobs` the folder with ab/cdef…,
    `fuse` the mount point of the view of blobs, or None when none is missing. tmpfs+overlay: the
    same, but that `metadata` is the index, encoded. fuse+overlay: `fuse`
    is the mount point of the view of the tree. unpacked: `fuse` is the copy, which is shown
    read-only; with `upper` that is shown instead, writable: a copy of the container's own.

    Without `upper` the root is read-only. `work` is an empty folder on the same file system;
    `volatile` says that nobody wants the upper after a crash. Raises MountFailed; nothing is
    mounted then.
    """
    try:
        with ExitStack() as stack:
            opened = _Opened(stack)
            target_fd = opened.directory(target)
            writable = _Upper.open(opened, upper, work, volatile)
            if level in _METADATA:
                assert metadata is not None
                assert blobs is not None
                data = [opened.layer(path) for path in (blobs, fuse) if path is not None]
                root_fd = _with_metadata(
                    opened, _METADATA[level](metadata), data, writable, target_fd
                )
            elif level == "fuse+overlay" and upper is not None:
                assert fuse is not None
                root_fd = opened.keep(_overlay([opened.layer(fuse)], writable))
            else:
                shown = upper or fuse
                assert shown is not None
                root_fd = opened.keep(_shown(opened.directory(shown), read_only=upper is None))
            move_mount(root_fd, target_fd)
    except OSError as error:
        raise MountFailed(target, error) from error


class _Opened:
    """Descriptors that are closed when all is mounted."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def keep(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        return fd

    def directory(self, path: Path) -> int:
        return self.keep(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def layer(self, path: Path) -> str:
        return _name_of(self.directory(path))


def _name_of(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


class _Upper(NamedTuple):
    """Where a root's changes go."""

    upper: str
    work: str
    volatile: bool

    @classmethod
    def open(
        cls, opened: _Opened, upper: Path | None, work: Path | None, volatile: bool
    ) -> _Upper | None:
        if upper is None or work is None:
            return None
        return cls(opened.layer(upper), opened.layer(work), volatile)


def _with_metadata(
    opened: _Opened, metadata_fd: int, data: list[str], upper: _Upper | None, target_fd: int
) -> int:
    """overlayfs takes no layer that is nowhere (before Linux 6.15): the metadata is at the target
    until the overlay holds it."""
    opened.keep(metadata_fd)
    move_mount(metadata_fd, target_fd)
    try:
        return opened.keep(_overlay([_name_of(metadata_fd), *data], upper))
    finally:
        unmount(_name_of(metadata_fd))


def _overlay(layers: list[str], upper: _Upper | None) -> int:
    """Of one lower layer, and data-only ones."""
    if upper is not None and not os.listdir(upper.upper):
        _dress(upper.upper, layers[0])
    with FileSystem("overlay") as overlay:
        overlay.set("lowerdir", "::".join(layers))
        for key, value in _options(upper):
            overlay.set(key, value)
        return overlay.mount(_SAFE if upper else _SAFE | MOUNT_ATTR_RDONLY)


def _options(upper: _Upper | None) -> Iterator[tuple[str, str | None]]:
    is_first = is_first_user_namespace()
    if is_first:
        yield "metacopy", "on"
        yield "redirect_dir", "on" if upper else "follow"
    else:
        yield "userxattr", None
    if upper is None:
        yield "ro", None
        return
    yield "upperdir", upper.upper
    yield "workdir", upper.work
    yield "xino", "on"
    if is_first:
        yield "index", "on"
    if upper.volatile:
        yield "volatile", None


def _dress(upper: str, lower: str) -> None:
    """The root of a writable overlay has the owner, mode, xattrs and time of its upper: those of
    the image's root, therefore, when it is used for the first time."""
    wanted = os.stat(lower)
    try:
        os.chown(upper, wanted.st_uid, wanted.st_gid)
        for name in os.listxattr(lower):
            os.setxattr(upper, name, os.getxattr(lower, name))
    except OSError:
        if is_first_user_namespace():
            raise  # elsewhere nobody may give them away
    os.chmod(upper, stat.S_IMODE(wanted.st_mode))
    os.utime(upper, ns=(wanted.st_mtime_ns, wanted.st_mtime_ns))


def _shown(fd: int, *, read_only: bool) -> int:
    """A bind mount."""
    mount_fd = clone_tree(fd, recursive=False)
    try:
        set_attributes(mount_fd, _SAFE | MOUNT_ATTR_RDONLY if read_only else _SAFE)
    except OSError:
        os.close(mount_fd)
        raise
    return mount_fd
