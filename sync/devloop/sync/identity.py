"""Who this client is, to boxes: the same words whatever the machine is called today.

A laptop's host name changes with the network it is in; a workspace must not. Knows no project.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from typing import TYPE_CHECKING

from devloop.cafs import dirs
from devloop.cafs.errors import DevloopError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["client_id"]

NAME = "client-id"
ID = re.compile(r"[0-9a-f]{32}\n")


def client_id() -> str:
    """Of this user on this machine: random, made once, kept in the state directory.

    The host's name where nothing can be kept.
    """
    path = dirs.state_dir() / NAME
    try:
        return _read(path) or _make(path)
    except (OSError, DevloopError):
        return socket.gethostname()


def _read(path: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        text = path.read_text()
        if ID.fullmatch(text):
            return text.strip()
    return None


def _make(path: Path) -> str:
    """Complete or not at all; who comes second takes the first one's."""
    dirs.ensure_own(path.parent)
    temporary = path.with_name(f".{NAME}-{os.urandom(8).hex()}")
    fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(os.urandom(16).hex() + "\n")
        try:
            os.link(temporary, path)
        except FileExistsError:
            if _read(path) is None:  # damaged
                temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    made = _read(path)
    if made is None:
        raise OSError(f"{path} cannot be read")
    return made
