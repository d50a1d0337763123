"""Who the runs of a container are, and how the workspace becomes theirs.

Joins what the image says of its users (`users`) and what this process may do. In its keeper, as
root of the container's user namespace, if it has one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from devloop.cafs.errors import DevloopError
from devloop.cafs.ids import ids_here
from devloop.cafs.mount.idmapped import bind_exchanged
from devloop.cafs.mount.kernel import clone_tree, move_mount
from devloop.cafs.mount.namespace import is_first_user_namespace

from .rootless import NO_OTHERS
from .users import find_user

__all__ = ["identity_of", "show_workspace"]


class NoIdForUser(DevloopError):
    """The user namespace of the container lacks who runs are to become."""

    hint = f'{NO_OTHERS}; or run as root: `container.user = "0:0"`'


class NotShown(DevloopError):
    """The workspace cannot be made that of a container's user."""

    hint = (
        'run as root: `container.user = "0:0"`; or put DEVLOOP_STATE_DIR on the box on ext4, xfs, '
        "btrfs or, since Linux 6.3, tmpfs"
    )


def identity_of(root: Path, user: str) -> dict[str, Any]:
    """`groups` is None where nobody may change them. Raises NoSuchUser, UsersUnreadable and
    NoIdForUser."""
    found = find_user(root, user)
    gids = ids_here("gid")
    if found.uid not in ids_here("uid") or found.gid not in gids:
        raise NoIdForUser(
            f"runs cannot become user {user!r} of the image, {found.uid}:{found.gid}: "
            "the agent is not root, and has no such ids"
        )
    groups = [gid for gid in found.groups if gid in gids]
    is_denied = Path("/proc/self/setgroups").read_text().strip() == "deny"
    return {**found._asdict(), "groups": None if is_denied else groups}


def show_workspace(workspace: Path, target: Path, identity: dict[str, Any]) -> None:
    """Mounts it at `target`, for that user to have: what he makes belongs, on the box, to the
    user of the agent. Raises NotShown."""
    uid, gid = identity["uid"], identity["gid"]
    if uid == os.geteuid():
        _bind(workspace, target)
    elif is_first_user_namespace():
        try:
            bind_exchanged(workspace, target, (os.geteuid(), uid), (os.getegid(), gid))
        except OSError as error:
            raise NotShown(
                f"the workspace cannot be shown as that of user {uid}: id-mapped mounts of the "
                f"box's file system at {workspace} are refused: {error.strerror}"
            ) from error
    else:
        workspace.chmod(0o777)  # the folders around it keep all others out
        _bind(workspace, target)


def _bind(source: Path, target: Path) -> None:
    fds: list[int] = []
    try:
        for path in (source, target):
            fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))  # noqa: PERF401
        fds.append(clone_tree(fds[0], recursive=True))
        move_mount(fds[2], fds[1])
    finally:
        for fd in fds:
            os.close(fd)
