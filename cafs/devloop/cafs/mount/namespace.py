"""A mount namespace of this process's own, with what root needs in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from devloop.cafs.ids import granted, ids_here, mapping, own_names

from .kernel import CLONE_NEWNS, CLONE_NEWUSER, make_private, unshare

__all__ = ["enter_private_namespace", "is_first_user_namespace", "may_mount"]

_FOLDERS = "/usr/local/bin:/usr/bin:/bin"
_ERROR = 1
_CAP_SYS_ADMIN = 21


def enter_private_namespace() -> None:
    """From here on no mount of this process, and of those that it starts, is seen elsewhere; all of
    them end with the last of these processes.

    Who may not mount becomes root of a user namespace of his own. Others exist in it as far as
    /etc/subuid and /etc/subgid give him ids for them, and newuidmap and newgidmap are installed;
    else he alone does. The process must have one thread. Raises OSError where neither is allowed.
    """
    try:
        unshare(CLONE_NEWNS)
    except PermissionError:
        _enter_user_namespace()
    make_private()


def is_first_user_namespace() -> bool:
    """Is root here the machine's root? Its user ids are mapped to themselves, all of them."""
    return ids_here("uid").are_all


def may_mount() -> bool:
    """Without a user namespace of one's own."""
    status = Path("/proc/self/status").read_text()
    (held,) = (line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(held, 16) >> _CAP_SYS_ADMIN & 1)


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    helpers = [_Helper.start("uid", uid, uid), _Helper.start("gid", gid, uid)]
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    if not helpers[1].map():
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    if not helpers[0].map():
        _write("/proc/self/uid_map", f"0 {uid} 1")


class _Helper:
    """A process that stays outside of the new namespace: only there newuidmap has its rights."""

    def __init__(self, pid: int, go: int) -> None:
        self._pid = pid
        self._go = go

    @classmethod
    def start(cls, kind: str, own: int, owner: int) -> _Helper:
        argv = _command(kind, own, owner, os.getpid())
        if not argv:
            return cls(0, -1)
        wait, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(go)
            _exec_when_told(wait, argv)
        os.close(wait)
        return cls(pid, go)

    def map(self) -> bool:
        """False when there are no ids but one's own."""
        if not self._pid:
            return False
        os.write(self._go, b"\0")
        os.close(self._go)
        return os.waitpid(self._pid, 0)[1] == 0


def _exec_when_told(wait: int, argv: list[str]) -> None:
    """Never returns; does nothing when the other process has ended."""
    try:
        if os.read(wait, 1):
            os.execv(argv[0], argv)
    finally:
        os._exit(_ERROR)


def _command(kind: str, own: int, owner: int, pid: int) -> list[str]:
    """Empty when there is nothing to be mapped."""
    program = shutil.which(f"new{kind}map", path=_FOLDERS)
    ranges = granted(_read(f"/etc/sub{kind}"), own_names(owner))
    if program is None or not ranges:
        return []
    numbers = [str(number) for extent in mapping(own, ranges) for number in extent]
    return [program, str(pid), *numbers]


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)
