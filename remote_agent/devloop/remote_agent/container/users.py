"""Who an image's `User` is: its names are those of the image's own /etc/passwd and /etc/group.

Reads these two files below a root, from which no link leads out; nobody's C library is asked.
Changes nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.errors import DevloopError
from devloop.cafs.mount.kernel import openat2_in_root
from devloop.remote_agent.shell import NO_SHELLS, PLAIN_SHELL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Identity", "NoSuchUser", "UsersUnreadable", "find_user"]

_FILES = ("passwd", "group")
# A hostile image may hold a file of any size under these names.
_READ_BYTES = 4 << 20
_MAX_ID = 2**32 - 2


class NoSuchUser(DevloopError):
    """The image's config names a user or group that the image does not have."""

    hint = "the image's `USER` must be a number, or a name in its /etc/passwd"


class UsersUnreadable(DevloopError):
    """/etc/passwd or /etc/group of the image is nothing that can be read."""

    hint = "the image is broken: build or push it again"


class Identity(NamedTuple):
    uid: int
    gid: int
    groups: list[int]
    home: str
    shell: str  # one that the image has; else what nearly all have


def find_user(root: Path, user: str) -> Identity:
    """`user`: "", "name", "uid", "name:group", "uid:gid" and any mixture.

    As Docker does: a number need not be known, and then has group 0 and the home "/". Raises
    NoSuchUser; UsersUnreadable also for a FIFO, say, at which a runtime would wait for ever.
    """
    for file in _FILES:
        _refuse_other(root, f"etc/{file}")
    name, _, group = user.partition(":")
    wanted = name or "0"
    entry = next((row for row in _rows(root, "passwd", 7) if wanted in (row[0], row[2])), None)
    if entry is None and not _is_id(wanted):
        raise NoSuchUser(f"the image has no user {wanted!r}")
    uid = int(entry[2] if entry else wanted)
    gid = int(entry[3]) if entry else 0
    groups = [] if group else _groups_of(root, entry[0]) if entry else []
    if group:
        gid = _group(root, group)
    home, shell = (entry[5] or "/", entry[6]) if entry else ("/", "")
    return Identity(uid, gid, groups, home, shell if _is_shell(root, shell) else PLAIN_SHELL)


def _is_shell(root: Path, path: str) -> bool:
    if not path.startswith("/") or path.rpartition("/")[2] in NO_SHELLS:
        return False
    fd = _opened(root, path, os.O_PATH)
    if fd is None:
        return False
    mode = os.fstat(fd).st_mode
    os.close(fd)
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def _group(root: Path, group: str) -> int:
    entry = next((row for row in _rows(root, "group", 4) if group in (row[0], row[2])), None)
    if entry is None and not _is_id(group):
        raise NoSuchUser(f"the image has no group {group!r}")
    return int(entry[2] if entry else group)


def _groups_of(root: Path, name: str) -> list[int]:
    return [int(row[2]) for row in _rows(root, "group", 4) if name in row[3].split(",")]


def _rows(root: Path, file: str, fields: int) -> Iterator[list[str]]:
    """Only those whose ids are ids; the third field is one in both files. What holds a NUL can be
    no variable's value and no path."""
    for line in _text(root, f"etc/{file}").split("\n"):
        row = [] if "\0" in line else line.split(":")
        if len(row) >= fields and _is_id(row[2]) and (fields == 4 or _is_id(row[3])):
            yield row


def _refuse_other(root: Path, path: str) -> None:
    """What is no file, a runtime would read all the same."""
    fd = _opened(root, path, os.O_PATH)
    if fd is not None:
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        os.close(fd)
        if not is_file:
            raise UsersUnreadable(f"the image's /{path} is no file")


def _text(root: Path, path: str) -> str:
    """Empty when there is none."""
    fd = _opened(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if fd is None:
        return ""
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
        try:
            return file.read(_READ_BYTES).decode("utf-8", "replace")
        except OSError as error:
            raise UsersUnreadable(
                f"the image's /{path} cannot be read: {error.strerror}"
            ) from error


def _opened(root: Path, path: str, flags: int) -> int | None:
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2_in_root(root_fd, path.encode(), flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise _unreadable(path, error) from error
    finally:
        os.close(root_fd)


def _unreadable(path: str, error: OSError) -> UsersUnreadable:
    return UsersUnreadable(f"the image's /{path}: {os.strerror(error.errno or 0)}")


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= _MAX_ID
