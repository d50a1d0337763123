"""Where devloop keeps its files: both halves must agree on the socket.

Environment variables override, for tests and odd machines:

    DEVLOOP_CACHE_DIR     the client's stat caches; default $XDG_CACHE_HOME/devloop
    DEVLOOP_STATE_DIR     the agent's blobs, workspaces, runs; default $XDG_STATE_HOME/devloop
    DEVLOOP_RUNTIME_DIR   the socket; default $XDG_RUNTIME_DIR/devloop, else /tmp/devloop-UID,
                          or `run` in the state directory when somebody else has made that one
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import DevloopError

__all__ = [
    "DirectoryUnusable",
    "bridge_socket_path",
    "cache_dir",
    "ensure_own",
    "ensure_private",
    "is_private",
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
    shared = Path(f"/tmp/devloop-{os.getuid()}")
    return state_dir() / "run" if _is_anothers(shared) else shared


def socket_path() -> Path:
    return runtime_dir() / "agent.sock"


def bridge_socket_path(socket: Path) -> Path:
    """Where the same agent answers those who come over a link."""
    return socket.with_name("bridge.sock")


def ensure_private(directory: Path) -> None:
    """Makes the directory with mode 0700, or checks that it is the user's alone.

    /tmp is anybody's: a directory planted there by somebody else must not be trusted. Nor is a
    mode changed: the directory that a variable names may serve others too.
    Raises DirectoryUnusable.
    """
    _make(directory)
    is_private(directory)


def ensure_own(directory: Path) -> None:
    """Makes the directory with mode 0700, or checks that it is the user's own.

    Others may look into one that was there before; what devloop makes in it is the user's alone.
    Raises DirectoryUnusable.
    """
    _make(directory)
    found = _own(directory)
    if found is not None and found.st_mode & stat.S_IWOTH:
        raise DirectoryUnusable(
            f"everybody may write to {directory}",
            hint=f"`chmod o-w {directory}`, or set DEVLOOP_STATE_DIR to a directory of its own",
        )


def is_private(directory: Path) -> bool:
    """False when there is none. Raises DirectoryUnusable when it is not the user's alone."""
    found = _own(directory)
    if found is not None and found.st_mode & 0o077:
        raise DirectoryUnusable(
            f"others may enter {directory}, where the agent's socket is to be",
            hint="set DEVLOOP_RUNTIME_DIR to a directory that is not there yet, or, "
            f"if this one serves nothing else, `chmod 700 {directory}`",
        )
    return found is not None


def _make(directory: Path) -> None:
    """With what lies above it, as private: the state directory may be what is above."""
    try:
        for missing in reversed([d for d in (directory, *directory.parents) if not d.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DirectoryUnusable(
            f"cannot make {directory}: {error.strerror}",
            hint="set DEVLOOP_STATE_DIR and DEVLOOP_RUNTIME_DIR to directories that you can write",
        ) from error


def _own(directory: Path) -> os.stat_result | None:
    """None when there is nothing. Raises DirectoryUnusable for what is not the user's directory."""
    try:
        found = directory.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DirectoryUnusable(
            f"cannot look at {directory}: {error.strerror}",
            hint="set DEVLOOP_STATE_DIR and DEVLOOP_RUNTIME_DIR to directories of yours",
        ) from error
    if not _is_users_directory(found):
        raise DirectoryUnusable(
            f"{directory} is not a directory of yours",
            hint="somebody else made it; remove it, or set DEVLOOP_RUNTIME_DIR",
        )
    return found


def _is_anothers(directory: Path) -> bool:
    try:
        return not _is_users_directory(directory.lstat())
    except OSError:
        return False


def _is_users_directory(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
