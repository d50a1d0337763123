"""Where devloop keeps its files: both halves must agree on the socket.

Environment variables override, for tests and odd machines:

    DEVLOOP_CACHE_DIR     the client's stat caches; default $XDG_CACHE_HOME/devloop
    DEVLOOP_STATE_DIR     the agent's blobs, workspaces, runs; default $XDG_STATE_HOME/devloop
    DEVLOOP_RUNTIME_DIR   the socket; default $XDG_RUNTIME_DIR/devloop, else /tmp/devloop-UID
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import DevloopError

__all__ = [
    "DirectoryUnusable",
    "cache_dir",
    "ensure_private",
    "runtime_dir",
    "socket_path",
    "state_dir",
]


class DirectoryUnusable(DevloopError):
    """A directory that devloop needs cannot be made, or is not the user's own."""


def state_dir() -> Path:
    return _user_dir("DEVLOOP_STATE_DIR", "XDG_STATE_HOME", "~/.local/state")


def cache_dir() -> Path:
    return _user_dir("DEVLOOP_CACHE_DIR", "XDG_CACHE_HOME", "~/.cache")


def _user_dir(variable: str, xdg: str, default: str) -> Path:
    if explicit := os.environ.get(variable):
        return Path(explicit)
    return Path(os.environ.get(xdg) or default).expanduser() / "devloop"


def runtime_dir() -> Path:
    if explicit := os.environ.get("DEVLOOP_RUNTIME_DIR"):
        return Path(explicit)
    if base := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(base) / "devloop"
    return Path(f"/tmp/devloop-{os.getuid()}")


def socket_path() -> Path:
    return runtime_dir() / "agent.sock"


def ensure_private(directory: Path) -> None:
    """Makes the directory with mode 0700, or checks that it is the user's own and nobody else's.

    /tmp is anybody's: a directory planted there by somebody else must not be trusted.
    Raises DirectoryUnusable.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise DirectoryUnusable(
            f"cannot make {directory}: {error.strerror}",
            hint="set DEVLOOP_STATE_DIR and DEVLOOP_RUNTIME_DIR to directories that you can write",
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise DirectoryUnusable(
            f"{directory} is not a directory of yours",
            hint="somebody else made it; remove it, or set DEVLOOP_RUNTIME_DIR",
        )
    if found.st_mode & 0o077:
        directory.chmod(0o700)
