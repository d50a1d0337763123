"""A mount namespace of this process's own, with what root needs in it."""

from __future__ import annotations

import os
from pathlib import Path

from .kernel import CLONE_NEWNS, CLONE_NEWUSER, make_private, unshare

__all__ = ["enter_private_namespace", "is_first_user_namespace"]


def enter_private_namespace() -> None:
    """From here on no mount of this process, and of those that it starts, is seen elsewhere; all of
    them end with the last of these processes.

    Who may not mount becomes root of a user namespace of his own, in which only he himself exists.
    The process must have one thread. Raises OSError where neither is allowed.
    """
    try:
        unshare(CLONE_NEWNS)
    except PermissionError:
        uid, gid = os.geteuid(), os.getegid()
        unshare(CLONE_NEWUSER | CLONE_NEWNS)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    make_private()


def is_first_user_namespace() -> bool:
    """Is root here the machine's root? Its user ids are mapped to themselves, all of them."""
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)
