"""A folder shown with two owners exchanged: an id-mapped bind mount (mount_setattr(2)).

What one of the two users makes through it is the other's on disk, and the other way round; all
others are who they are. Needs CAP_SYS_ADMIN in the first user namespace, Linux 5.12, and a file
system that takes part: ext4, xfs, btrfs, since 6.3 tmpfs, not overlayfs.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cafs.ids import exchanged

from .kernel import CLONE_NEWUSER, clone_tree, map_ids, move_mount, unshare

if TYPE_CHECKING:
    from collections.abc import Iterable

    from devloop.cafs.ids import Extent

__all__ = ["bind_exchanged"]


def bind_exchanged(
    source: Path, target: Path, uids: tuple[int, int], gids: tuple[int, int]
) -> None:
    """Mounts the directory `source` at `target`. Raises OSError where that cannot be done."""
    with ExitStack() as stack:
        fds = []
        for path in (source, target):
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            fds.append(fd)
        mount_fd = clone_tree(fds[0], recursive=True)
        stack.callback(os.close, mount_fd)
        namespace_fd = _namespace(exchanged(*uids), exchanged(*gids))
        stack.callback(os.close, namespace_fd)
        map_ids(mount_fd, namespace_fd)
        move_mount(mount_fd, fds[1])


def _namespace(uids: Iterable[Extent], gids: Iterable[Extent]) -> int:
    """A user namespace with these maps, in which nobody lives. The caller must have one thread."""
    there, entered = os.pipe()
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        _enter_and_wait(entered, wait)
    os.close(entered)
    try:
        if said := os.read(there, 4):
            raise OSError(int(said), os.strerror(int(said)))
        _write_maps(pid, uids, gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (there, wait, go):
            os.close(fd)
        os.waitpid(pid, 0)


def _enter_and_wait(entered: int, wait: int) -> None:
    """Never returns."""
    try:
        unshare(CLONE_NEWUSER)
        os.close(entered)
        os.read(wait, 1)
    except OSError as error:
        os.write(entered, b"%d" % (error.errno or 0))
    finally:
        os._exit(0)


def _write_maps(pid: int, uids: Iterable[Extent], gids: Iterable[Extent]) -> None:
    for kind, extents in (("uid", uids), ("gid", gids)):
        lines = "".join(f"{inside} {outside} {size}\n" for inside, outside, size in extents)
        Path(f"/proc/{pid}/{kind}_map").write_text(lines)
