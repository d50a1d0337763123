"""Outputs: files that runs made in the workspace, on their way back to the laptop.

A file that sync made is never an output, whatever the patterns say.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from devloop.cafs.beneath import Root
from devloop.cafs.digest import Digest, Hasher
from devloop.cafs.errors import DevloopError
from devloop.cafs.patterns import Patterns

from .changes import entry_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .workspace import Workspace

__all__ = ["Output", "OutputChanged", "Piece", "list_outputs", "read_output"]

PIECE_BYTES = 1 << 20


class OutputChanged(DevloopError):
    """An output is no longer the file that was listed."""

    hint = "a run still writes it; pull again"


class Output(NamedTuple):
    path: bytes
    size_bytes: int
    mtime_ns: int
    mode: int


class Piece(NamedTuple):
    """Bytes of a file; the last one carries the digest of the whole file, from its first byte."""

    data: bytes
    digest: bytes = b""


def list_outputs(workspace: Workspace, patterns: list[str]) -> list[Output]:
    """Regular files that match and that are in no tree of the workspace, in order of path.

    What cannot be read, or goes away meanwhile, is left out.
    """
    trees = workspace.trees()
    wanted = Patterns(patterns)
    return [
        output
        for output in _matching(os.fsencode(workspace.files), b"", wanted, inside=False)
        if all(entry_at(tree, output.path) is None for tree in trees)
    ]


def _matching(root: bytes, prefix: bytes, wanted: Patterns, *, inside: bool) -> Iterator[Output]:
    """`inside`: below a directory that matched, so that everything is wanted."""
    try:
        with os.scandir(os.path.join(root, prefix)) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in found:
        path = prefix + entry.name
        is_dir = entry.is_dir(follow_symlinks=False)
        matched = inside or bool(wanted.decide(path, is_dir))
        if is_dir:
            yield from _matching(root, path + b"/", wanted, inside=matched)
        elif matched and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                yield Output(path, status.st_size, status.st_mtime_ns, status.st_mode & 0o777)


def read_output(
    workspace: Workspace, path: bytes, offset: int, size_bytes: int, mtime_ns: int
) -> Iterator[Piece]:
    """Its bytes from `offset`. Raises OutputChanged when it is not as it was listed."""
    with _opened(workspace, path) as file:
        status = os.fstat(file.fileno())
        listed = (size_bytes, mtime_ns)
        if not stat.S_ISREG(status.st_mode) or (status.st_size, status.st_mtime_ns) != listed:
            raise OutputChanged(f"{os.fsdecode(path)} has changed since it was listed")
        hasher = Hasher()
        position = 0
        while data := file.read(PIECE_BYTES):
            hasher.update(data)
            unseen = data[max(0, offset - position) :]
            position += len(data)
            if unseen:
                yield Piece(unseen)
        if position != size_bytes:
            raise OutputChanged(f"{os.fsdecode(path)} changed while it was read")
        yield Piece(b"", Digest(hasher.digest()))


def _opened(workspace: Workspace, path: bytes) -> BinaryIO:
    try:
        with Root(workspace.files) as root:
            return os.fdopen(root.open_read(path), "rb")
    except OSError as error:
        raise OutputChanged(f"{os.fsdecode(path)}: {error.strerror}") from error
