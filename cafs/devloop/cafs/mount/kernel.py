"""The kernel's calls about mounts, which the standard library lacks. Decides nothing.

Every function raises OSError with the name of the call, and what the kernel said beside its number
where it says more: a file system context keeps a log of messages (fsopen(2)). All are for Linux
5.12 and later, and have the same numbers on every architecture that devloop runs on.
"""

from __future__ import annotations

import ctypes
import errno
import os
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "CLONE_NEWNS",
    "CLONE_NEWUSER",
    "MOUNT_ATTR_NODEV",
    "MOUNT_ATTR_NOEXEC",
    "MOUNT_ATTR_NOSUID",
    "MOUNT_ATTR_RDONLY",
    "FileSystem",
    "clone_tree",
    "make_private",
    "map_ids",
    "move_mount",
    "openat2_in_root",
    "set_attributes",
    "unmount",
    "unshare",
]

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000

MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
_MOUNT_ATTR_IDMAP = 0x00100000

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442

_CLOEXEC = 1  # of fsopen and fsmount
_SET_FLAG, _SET_STRING, _SET_FD, _CMD_CREATE = 0, 1, 5, 6
_OPEN_TREE_CLONE = 1
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_MOVE_FROM_EMPTY_PATH, _MOVE_TO_EMPTY_PATH = 0x04, 0x40
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2
_MESSAGE_BYTES = 4096

_MOUNT_ATTR = Struct("=QQQQ")  # attributes to set, to clear, propagation, user namespace
_OPEN_HOW = Struct("=QQQ")  # flags, mode, resolve
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10

_libc = ctypes.CDLL(None, use_errno=True)


class FileSystem:
    """A file system that is being configured, and then mounted where nothing can see it yet."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._fd = _call("fsopen", _SYS_FSOPEN, kind.encode(), _CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def set(self, key: str, value: str | None = None) -> None:
        """An option. Its value has 255 bytes at most, so name long paths by descriptors."""
        if value is None:
            self._config(_SET_FLAG, key, None)
        else:
            self._config(_SET_STRING, key, os.fsencode(value))

    def mount(self, attributes: int) -> int:
        """A descriptor of the mount, which is nowhere until `move_mount`, and gone when closed."""
        self._config(_CMD_CREATE, None, None)
        return self._explained("fsmount", _SYS_FSMOUNT, self._fd, _CLOEXEC, attributes)

    def _config(self, command: int, key: str | None, value: bytes | None) -> None:
        encoded = None if key is None else key.encode()
        self._explained("fsconfig", _SYS_FSCONFIG, self._fd, command, encoded, value, 0)

    def _explained(self, name: str, number: int, *arguments: int | bytes | None) -> int:
        try:
            return _call(name, number, *arguments)
        except OSError as error:
            said = self._messages() or [os.strerror(error.errno or 0)]
            raise OSError(error.errno, f"{self._kind}: {'; '.join(said)}") from None

    def _messages(self) -> list[str]:
        """What the kernel has to say about the failure, one message a read."""
        messages: list[str] = []
        while True:
            try:
                message = os.read(self._fd, _MESSAGE_BYTES)
            except OSError:  # ENODATA: no more
                return messages
            messages.append(message.decode(errors="replace").strip().removeprefix("e "))


def move_mount(mount_fd: int, target_fd: int) -> None:
    """Attaches a mount that is nowhere yet to the directory or file that is open as `target_fd`."""
    flags = _MOVE_FROM_EMPTY_PATH | _MOVE_TO_EMPTY_PATH
    _call("move_mount", _SYS_MOVE_MOUNT, mount_fd, b"", target_fd, b"", flags)


def clone_tree(fd: int, *, recursive: bool) -> int:
    """A mount of what is open as `fd`, nowhere yet: a bind mount's first half."""
    flags = _OPEN_TREE_CLONE | _AT_EMPTY_PATH | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return _call("open_tree", _SYS_OPEN_TREE, fd, b"", flags)


def set_attributes(
    mount_fd: int, attributes: int, *, private: bool = False, recursive: bool = True
) -> None:
    """Adds attributes to a mount, and as one step to all below it."""
    packed = _MOUNT_ATTR.pack(attributes, 0, _MS_PRIVATE if private else 0, 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _call("mount_setattr", _SYS_MOUNT_SETATTR, mount_fd, b"", flags, packed, len(packed))


def map_ids(mount_fd: int, namespace_fd: int) -> None:
    """Shows the owners of a mount that is nowhere yet, without those below it, as that user
    namespace maps them."""
    packed = _MOUNT_ATTR.pack(_MOUNT_ATTR_IDMAP, 0, 0, namespace_fd)
    _call("mount_setattr", _SYS_MOUNT_SETATTR, mount_fd, b"", _AT_EMPTY_PATH, packed, len(packed))


def make_private() -> None:
    """From here on no mount of this mount namespace is seen in another, nor the other way round."""
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        set_attributes(fd, 0, private=True)
    finally:
        os.close(fd)


def unmount(path: str) -> None:
    """The topmost mount at `path`, at once; what still uses it keeps it alive, unseen."""
    _checked("umount2", _libc.umount2(os.fsencode(path), _MNT_DETACH))


def unshare(flags: int) -> None:
    _checked("unshare", _libc.unshare(flags))


def openat2_in_root(root_fd: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Opens `path` as a process would whose root directory is `root_fd`: links, also absolute ones
    and `..`, stay in it. Links of /proc that lead elsewhere are ELOOP."""
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    return _call("openat2", _SYS_OPENAT2, root_fd, path, how, len(how))


def _call(name: str, number: int, *arguments: int | bytes | None) -> int:
    # Bare ints would be passed as 32 bits.
    converted = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return _checked(name, _libc.syscall(ctypes.c_long(number), *converted))


def _checked(name: str, outcome: int) -> int:
    if outcome >= 0:
        return outcome
    number = ctypes.get_errno() or errno.EIO
    raise OSError(number, f"{name}: {os.strerror(number)}")
