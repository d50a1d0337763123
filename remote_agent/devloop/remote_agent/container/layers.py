"""Writable layers that are kept: whose they are, and on which image each was begun.

NAME/           of CONTAINERS/named; locked (flock) by the keeper of the container that has it
    upper, work what overlayfs writes
    image.json  {key, reference} of the image that it was begun with: on any other one the
                kernel would show neither of both
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.errors import DevloopError
from devloop.cafs.mount.within import remove_trees

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LayerRefused", "begun_with", "remove", "take"]

_NOTE = "image.json"
_KEY_DIGITS = 12


class LayerRefused(DevloopError):
    """A kept layer is another container's, or another image's."""


class _Image(NamedTuple):
    key: str
    reference: str

    def __str__(self) -> str:
        name = self.key if self.key.startswith("/") else self.key[:_KEY_DIGITS]
        return f"{self.reference} ({name})" if self.reference else name


def take(folder: Path, key: str, reference: str) -> None:
    """It is this process's, with this image, until its end. Raises LayerRefused."""
    fd = _locked(folder)
    if fd is None:
        raise LayerRefused(
            f"the container layer {folder.name!r} is in use",
            hint="stop the run that uses it, or give this project's container another name",
        )
    image, begun = _Image(key, reference), _begun_with(folder)
    if begun is not None and begun.key != key:
        raise LayerRefused(
            f"the container layer {folder.name!r} was begun on the image {begun}, and cannot go on "
            f"{image}",
            hint="give `container.keep` another name; `devloop clean --layers` removes kept layers",
        )
    if begun is None:
        (folder / _NOTE).write_text(json.dumps(image._asdict()))


def remove(folder: Path) -> bool:
    """False when it is in use."""
    fd = _locked(folder)
    if fd is None:
        return False
    try:
        remove_trees([folder])
    finally:
        os.close(fd)
    return True


def begun_with(folder: Path) -> str:
    """The reference of its image; empty when it is not known."""
    begun = _begun_with(folder)
    return begun.reference if begun is not None else ""


def _locked(folder: Path) -> int | None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _begun_with(folder: Path) -> _Image | None:
    """None also for a note that a kill has cut off: what was begun then has written nothing."""
    try:
        return _Image(**json.loads((folder / _NOTE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
