"""The second half of a transition: what is staged goes to its place, and what is gone is deleted.

Owns the order of renames and deletions, and what becomes of whatever lies in the way. A file that
does not look as the last transition left it has changed on the box: it is moved to aside/, and
named in the result. Refuses to know blobs and records: every new byte lies in staging/ already, and
the caller records where the transition stands.
"""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError
from devloop.cafs.tree import Dir

from .bytecode import remove_bytecode
from .changes import makes_way
from .transition import SavedAside

if TYPE_CHECKING:
    from pathlib import Path

    from devloop.cafs.tree import Change, Node

    from .aside import Aside
    from .transition import Applied, Staged
    from .workspace_files import WorkspaceFiles

__all__ = ["Applier"]


class Applier:
    """Applies one staged transition. Raises OSError."""

    def __init__(
        self,
        staged: Staged,
        bases: list[Node],
        *,
        staging: Path,
        files: WorkspaceFiles,
        aside: Aside,
        applied: Applied,
    ) -> None:
        """`bases` are the trees that files may come from; what is done is noted in `applied`."""
        self._staged = staged
        self._bases = bases
        self._staging = os.fsencode(staging)
        self._files = files
        self._root = files.root
        self._aside = aside
        self._applied = applied

    def apply(self) -> None:
        """Children go before their parents, and come after them."""
        for change in reversed(self._staged.changes):
            self._files.permitted(change.path, partial(self._delete, change))
        for change in self._staged.changes:
            self._files.permitted(change.path, partial(self._create, change))

    def _delete(self, change: Change) -> None:
        """What is gone, or makes way for another kind of entry."""
        if change.new is None or makes_way(change):
            self._remove(change.path)
            remove_bytecode(self._files, change.path, with_cache=True)

    def _remove(self, path: bytes) -> None:
        found = self._files.lstat(path)
        if found is None:
            return
        directory_fd, name = self._root.parent(path)
        if stat.S_ISDIR(found.st_mode):
            # Not empty: it holds outputs, which no sync deletes.
            try:
                os.rmdir(name, dir_fd=directory_fd)
                self._root.forget(path)
            except OSError:
                return
        elif self._files.is_of(self._bases, path, found):
            os.unlink(name, dir_fd=directory_fd)
            self._applied.files_deleted += 1
        else:
            self._set_aside(path)

    def _create(self, change: Change) -> None:
        place = self._staged.moves.get(change.path)
        if place is not None:
            self._move_in(change, place)
        elif isinstance(change.new, Dir) and not self._is_inside_new_directory(change.path):
            self._ensure_directory(change.path, change.new.mode)

    def _is_inside_new_directory(self, path: bytes) -> bool:
        while path := path.rpartition(b"/")[0]:
            if path in self._staged.moves:
                return True
        return False

    def _ensure_directory(self, path: bytes, mode: int) -> None:
        if not self._files.is_directory(path):
            if self._files.lstat(path) is not None:
                self._set_aside(path)
            directory_fd, name = self._parent(path)
            os.mkdir(name, dir_fd=directory_fd)
        self._root.chmod(path, mode | 0o700)

    def _move_in(self, change: Change, place: bytes) -> None:
        path, files = change.path, self._files
        found = files.lstat(path)
        if found is not None and (
            stat.S_ISDIR(found.st_mode)
            or not (files.is_of(self._bases, path, found) or files.matches(path, found, change.new))
        ):
            self._set_aside(path)
        directory_fd, name = self._parent(path)
        os.rename(self._staging + b"/" + place, name, dst_dir_fd=directory_fd)
        remove_bytecode(files, path)

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        """The directory of `path`; whatever a run has put in its place is set aside."""
        try:
            return self._root.parent(path, create=True)
        except (NotADirectoryError, DevloopError):
            parts = path.split(b"/")[:-1]
            for depth in range(1, len(parts) + 1):
                above = b"/".join(parts[:depth])
                if not self._files.is_directory(above):
                    self._set_aside(above)
                    break
            return self._root.parent(path, create=True)

    def _set_aside(self, path: bytes) -> None:
        kept_at = self._aside.new_place(path)
        directory_fd, name = self._root.parent(path)
        os.rename(name, kept_at, src_dir_fd=directory_fd)
        self._root.forget(path)
        self._applied.saved_aside.append(SavedAside(path, kept_at))
