"""Python's bytecode of sources that a transition has replaced or deleted."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .workspace_files import WorkspaceFiles

__all__ = ["remove_bytecode"]


def remove_bytecode(files: WorkspaceFiles, path: bytes, *, with_cache: bool = False) -> None:
    """Python would run the old bytecode of a source of the same size and second.

    `path` is the source's; nothing happens for any other file.
    `with_cache`: and nothing but bytecode must keep a deleted package's directory.
    """
    parent, _, name = path.rpartition(b"/")
    if not name.endswith(b".py"):
        return
    cache = parent + b"/__pycache__" if parent else b"__pycache__"
    if not files.is_directory(cache):
        return
    stem = name[:-2]  # with its dot
    cache_fd, _ = files.root.parent(cache + b"/x")
    for found in os.listdir(cache_fd):
        if os.fsencode(found).startswith(stem):
            with contextlib.suppress(IsADirectoryError):
                os.unlink(found, dir_fd=cache_fd)
    if with_cache:
        with contextlib.suppress(OSError):
            files.root.rmdir(cache)
