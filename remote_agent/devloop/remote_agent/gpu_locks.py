"""Advisory locks on GPUs, for all users of one box. Owns their files; knows no driver and no run.

A lock is a file a user and GPU in a folder that everybody may write to: `devloop-gpu-UUID.UID`. Its
owner has it locked (an open file description lock, F_OFD_SETLK) for as long as he holds the GPU.
Whatever ends the process, kill -9 too, ends the lock. A GPU is held when anybody's file of it is
locked. Each user locks his own file first and looks at those of the others then, so that of two
at least one sees the other and lets go.

Nobody can take that away from somebody else: a file counts only when it is a plain one of the user
in its name, and in a sticky folder of root's only its owner can remove it. A hostile user can lock
his own file, and so deny a GPU; what he plants under another's name denies it to that one. No
symbolic link is followed, and nothing is written to a file with a second name.

The folder is /run/lock, else /tmp: the first that is root's, sticky, and everybody's.
DEVLOOP_GPU_LOCKS_DIR names another. The files stay when nobody holds them. One holds, while it is
locked, a JSON object of up to 4 KiB for people: {"project", "run", "since_ns"}.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["GpuLock", "GpuLocks", "HeldBy", "LocksUnusable"]

NOTE_BYTES = 4096
MAX_PROJECT_CHARS = 100
_PREFIX = "devloop-gpu-"
_SHARED_DIRS = (Path("/run/lock"), Path("/tmp"))
_FLOCK = "hhqqi4x"  # struct flock where offsets have 64 bits: type, whence, start, length, pid


class LocksUnusable(DevloopError):
    """GPUs cannot be locked here, so that nobody could be kept from taking the same one."""

    hint = "set DEVLOOP_GPU_LOCKS_DIR to a folder of root's with mode 1777, the same for all users"


@dataclass(frozen=True, slots=True)
class HeldBy:
    """Who holds a GPU. What his note says is his own word."""

    user: str
    project: str = ""
    run: int = 0
    since_ns: int = 0

    def __str__(self) -> str:
        run = f"run {self.run} of {self.project}" if self.project else "a devloop run"
        return f"{run} ({self.user})"


class GpuLock:
    """A lock that is ours until it is closed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def note(self, project: str, run: int, since_ns: int) -> None:
        """Tells other users whose it is. A full disk costs them that, not the lock."""
        words = {"project": project[:MAX_PROJECT_CHARS], "run": run, "since_ns": since_ns}
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(words).encode(), 0)
        except OSError:
            pass

    def close(self) -> None:
        try:
            os.ftruncate(self._fd, 0)
        except OSError:
            pass
        os.close(self._fd)


class GpuLocks:
    """The locks of one box. `directory` and `uid` are this process's own unless they are given."""

    def __init__(self, directory: Path | None = None, *, uid: int | None = None) -> None:
        self._directory = directory
        self._uid = os.getuid() if uid is None else uid

    def take(self, uuid: str) -> GpuLock | None:
        """The lock on this GPU, or None: somebody has it, or tries to at this moment.

        Raises LocksUnusable.
        """
        fd = self._open_own(self._path(uuid, self._uid))
        try:
            if _try_lock(fd) and not any(self._holders(uuid, but=self._uid)):
                fd, lock = -1, GpuLock(fd)
                return lock
        finally:
            if fd >= 0:
                os.close(fd)
        return None

    def holder(self, uuid: str) -> HeldBy | None:
        """Who holds this GPU: this user's own runs too, whichever agent has them."""
        return next(self._holders(uuid), None)

    def _holders(self, uuid: str, *, but: int | None = None) -> Iterator[HeldBy]:
        stem = self._path(uuid, 0).name.removesuffix("0")
        for name in self._names():
            digits = name.removeprefix(stem)
            if name.startswith(stem) and digits.isascii() and digits.isdigit():
                holder = _holder(self._dir / name, int(digits)) if int(digits) != but else None
                if holder is not None:
                    yield holder

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._dir) if name.startswith(_PREFIX)]
        except OSError as error:
            raise LocksUnusable(f"cannot look into {self._dir}: {error.strerror}") from None

    def _path(self, uuid: str, uid: int) -> Path:
        """Old drivers have slashes in the uuid of a slice."""
        return self._dir / f"{_PREFIX}{re.sub(r'[^A-Za-z0-9-]', '_', uuid)}.{uid}"

    @property
    def _dir(self) -> Path:
        if self._directory is None:
            self._directory = _shared_dir()
        return self._directory

    def _open_own(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            try:
                fd = os.open(path, flags)
            except FileNotFoundError:
                fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
                os.fchmod(fd, 0o644)  # others must be able to ask, whatever the umask
        except OSError as error:
            raise LocksUnusable(f"cannot lock a GPU by {path}: {error.strerror}") from None
        if _is_plain_file_of(fd, self._uid):
            return fd
        os.close(fd)
        raise LocksUnusable(
            f"{path} is not a plain file of yours", hint="somebody else made it: have it removed"
        )


def _shared_dir() -> Path:
    if explicit := os.environ.get("DEVLOOP_GPU_LOCKS_DIR"):
        return Path(explicit)
    for directory in _SHARED_DIRS:
        if _is_shared(directory):
            return directory
    raise LocksUnusable("neither /run/lock nor /tmp is a folder for everybody's locks")


def _is_shared(directory: Path) -> bool:
    """Anybody can make a file there, and nobody can remove that of somebody else."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    shared = stat.S_ISVTX | stat.S_IWOTH | stat.S_IXOTH | stat.S_IROTH
    is_shared = found.st_mode & shared == shared
    return stat.S_ISDIR(found.st_mode) and is_shared and found.st_uid == 0


def _holder(path: Path, uid: int) -> HeldBy | None:
    """None when the file is not that user's plain own, or is not locked."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not (_is_plain_file_of(fd, uid) and _is_locked(fd)):
            return None
        return _read_note(os.pread(fd, NOTE_BYTES, 0), _user_name(uid))
    except OSError:
        return None
    finally:
        os.close(fd)


def _is_plain_file_of(fd: int, uid: int) -> bool:
    """And with no second name, under which it would be a file that means something else."""
    found = os.fstat(fd)
    return stat.S_ISREG(found.st_mode) and found.st_uid == uid and found.st_nlink == 1


def _read_note(data: bytes, user: str) -> HeldBy:
    try:
        words = json.loads(data)
        project, run, since_ns = words["project"], words["run"], words["since_ns"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return HeldBy(user)  # it is being written
    if not (isinstance(project, str) and isinstance(run, int) and isinstance(since_ns, int)):
        return HeldBy(user)
    fits = 0 <= run < 1 << 63 and 0 <= since_ns < 1 << 63
    return HeldBy(user, _one_line(project), run, since_ns) if fits else HeldBy(user)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_PROJECT_CHARS])


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _try_lock(fd: int) -> bool:
    request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except BlockingIOError:
        return False
    except OSError as error:
        raise LocksUnusable(f"GPUs cannot be locked: {error.strerror}") from error
    return True


def _is_locked(fd: int) -> bool:
    """Asks, and holds nothing meanwhile: a look must not be in the way of anybody's lock."""
    request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    (kind, *_) = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, request))
    return bool(kind != fcntl.F_UNLCK)
