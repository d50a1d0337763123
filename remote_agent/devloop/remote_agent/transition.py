"""A transition of a workspace from one tree to the next: the values that its two halves share.

`transition_stage.py` makes a Staged, `transition_apply.py` makes an Applied of it. Owns what passes
between them, and how a failure of the disk is worded in either. Refuses to know where files are.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.store import disk_full

from .workspace_state import WorkspaceBroken

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from devloop.cafs.digest import Digest
    from devloop.cafs.tree import Change, Node

    from .workspace_state import WorkspaceState

__all__ = ["BEGUN", "DONE", "Applied", "Records", "SavedAside", "Staged", "disk_errors"]

BEGUN, DONE = "begun.json", "done.json"


class Records(NamedTuple):
    """What state.json is to say amid the transition and after it.

    They lie in staging/ as BEGUN and DONE.
    """

    begun: WorkspaceState
    done: WorkspaceState


@dataclass(slots=True)
class Staged:
    """A transition whose every new byte lies in staging/."""

    target: Node
    changes: list[Change]
    # Folders that came ahead and are new here: what is in them is not among the changes.
    whole: dict[bytes, Node] = field(default_factory=dict)
    # Places in staging/ of files and whole new directories, by the path that they go to.
    moves: dict[bytes, bytes] = field(default_factory=dict)
    missing: list[Digest] = field(default_factory=list)
    records: Records | None = None  # None when there is nothing to do
    leaves_rest: bool = False  # in staging/, after all moves
    bytes_written: int = 0
    files_written: int = 0


@dataclass(frozen=True, slots=True)
class SavedAside:
    path: bytes
    kept_at: bytes


@dataclass(slots=True)
class Applied:
    files_written: int = 0
    files_deleted: int = 0
    bytes_written: int = 0
    saved_aside: list[SavedAside] = field(default_factory=list)


@contextlib.contextmanager
def disk_errors(path: Path, need_bytes: int) -> Iterator[None]:
    """OSErrors become StoreFull or WorkspaceBroken."""
    try:
        yield
    except OSError as error:
        full = disk_full(error, path, need_bytes)
        if full is not None:
            raise full from error
        where = os.fsdecode(error.filename) if error.filename else path
        raise WorkspaceBroken(f"cannot change {where} in {path}: {error.strerror}") from error
