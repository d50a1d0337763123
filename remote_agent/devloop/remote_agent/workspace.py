"""A workspace: the directory on the box that follows the laptop's tree.

Owns the directory, the record of the tree that it holds, and the order of a transition between
trees: it is staged (`transition_stage.py`: everything that could fail for want of a blob or of disk
space) before it is applied (`transition_apply.py`: renames, deletions), and a killed agent can take
it up again: the record names every tree that files may come from until the last rename is done.
Knows nothing of runs: the caller sees to it that none is live.

On disk, below the workspace's own directory:
    files/         what runs see
    state.json     see workspace_state.py
    staging/       new files on their way into `files`, and the records of the transition to come;
                   emptied when the workspace is opened
    ahead/         files of a tree to come, as they arrive; gone like staging/
    aside/         what had changed on the box when a transition came for its path
    runs/          see runs.py

Directories are given the owner's rwx, whatever their mode in the tree: without it no transition
could reach what is in them.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError
from devloop.cafs.tree import load_tree

from .ahead import AheadSlot
from .aside import Aside
from .staging import StagingDirectory
from .transition import BEGUN, DONE, Applied, disk_errors
from .transition_apply import Applier
from .transition_stage import Stager
from .workspace_files import WorkspaceFiles, ensure_directory
from .workspace_state import WorkspaceBroken, WorkspaceState, read_state

if TYPE_CHECKING:
    from pathlib import Path

    from devloop.cafs.digest import Digest
    from devloop.cafs.store import BlobStore
    from devloop.cafs.tree import Node

    from .transition import Staged

__all__ = ["Workspace"]

DIRECTORY_BYTES = 4096  # what a rename or a new directory may need on a full disk


class Workspace:
    """One project's directory on the box. Not safe for concurrent calls: the caller holds a lock.

    `ahead` takes files of a tree to come, of one upload at a time.
    Raises WorkspaceBroken when its own files cannot be used, StoreFull when the disk is full.
    """

    def __init__(self, directory: Path, store: BlobStore, name: str) -> None:
        self._directory = directory
        self._store = store
        self.files = directory / "files"
        self.ahead = AheadSlot(directory / "ahead")
        self._staging = StagingDirectory(directory / "staging")
        self._aside = Aside(directory / "aside")
        self._ensure_directories()
        self._state = read_state(self._state_path) or WorkspaceState(name=name)
        self._current: Node | None = None

    @property
    def id(self) -> str:
        return self._directory.name

    @property
    def name(self) -> str:
        return self._state.name

    @property
    def current(self) -> Digest | None:
        """The tree that `files` holds; None before the first transition, or amid one."""
        return self._state.settled

    @property
    def runs_dir(self) -> Path:
        return self._directory / "runs"

    def roots(self) -> list[Digest]:
        """The trees that garbage collection must keep."""
        current = self._state.current
        return [*([current] if current is not None else []), *self._state.pending]

    def trees(self) -> list[Node]:
        """The trees that files on disk may come from: the current one, and those half applied."""
        if self._current is not None and not self._state.pending:
            return [self._current]
        trees = []
        for digest in self.roots():
            try:
                trees.append(load_tree(digest, self._store.get))
            except DevloopError:
                continue  # its files then count as changed on the box, and are kept aside
        return trees

    # -- transitions

    def stage(self, target: Digest, *, repair: bool = False) -> Staged:
        """Writes what the transition to `target` needs beside its place; `files` stays as it is.

        With `repair`, files of the tree that a run has deleted come back too; that looks at every
        file, so it is for the first transition of a session.
        When blobs are missing or corrupt, the result's `missing` names them and nothing is staged.
        Raises TreeInvalid for a malformed tree, StoreFull when the disk is full.
        """
        self._staging.ensure_empty()
        damaged = self._ensure_files()
        with WorkspaceFiles(self.files) as files:
            stager = Stager(self._store, files=files, staging=self._staging, ahead=self.ahead)
            return stager.stage(target, self.trees(), self._state, repair=repair or damaged)

    def apply(self, staged: Staged) -> Applied:
        """Moves `files` to the staged tree. No run may be live.

        A file that does not look as the last transition left it has changed on the box: it is
        moved to aside/, and named in the result.
        """
        applied = Applied(files_written=staged.files_written, bytes_written=staged.bytes_written)
        if staged.records is not None:
            bases = self.trees()
            with disk_errors(self.files, DIRECTORY_BYTES):
                self._take_record(BEGUN, staged.records.begun)
                self._move(staged, bases, applied)
                self._take_record(DONE, staged.records.done)
        self._finish_staging(staged)
        self._current = staged.target
        return applied

    def _move(self, staged: Staged, bases: list[Node], applied: Applied) -> None:
        self._ensure_files()
        with WorkspaceFiles(self.files) as files:
            Applier(
                staged,
                bases,
                staging=self._staging.path,
                files=files,
                aside=self._aside,
                applied=applied,
            ).apply()

    def _take_record(self, name: str, state: WorkspaceState) -> None:
        (self._staging.path / name).replace(self._state_path)
        self._state = state

    def _finish_staging(self, staged: Staged) -> None:
        above = os.fsencode(self._staging.path)
        places = (os.path.join(above, place) for place in staged.moves.values())
        if staged.leaves_rest or any(os.path.lexists(place) for place in places):
            self._staging.discard()
        self._staging.is_empty = True

    # -- its own files

    @property
    def _state_path(self) -> Path:
        return self._directory / "state.json"

    def _ensure_directories(self) -> None:
        try:
            self.runs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.files.mkdir(mode=0o700, exist_ok=True)
            self.ahead.clear()
            self._staging.discard()
        except OSError as error:
            raise WorkspaceBroken(f"cannot make {error.filename}: {error.strerror}") from error

    def _ensure_files(self) -> bool:
        """True when they were not where they belong."""
        return ensure_directory(self.files, partial(self._aside.new_place, b"files"))
