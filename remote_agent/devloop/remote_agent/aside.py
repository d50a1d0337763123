"""Where files go that sync must not overwrite: what had changed on the box when a transition came.

Owns the names below a workspace's `aside/`, by the time that something was put there. Refuses to
know why something goes there; deletes nothing.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Aside"]

LONGEST_KEPT_PATH = 4000


class Aside:
    """One workspace's."""

    def __init__(self, directory: Path) -> None:
        self._directory = os.fsencode(directory)

    def new_place(self, path: bytes) -> bytes:
        """A path to rename what is at `path` to; its directory is made. Raises OSError."""
        folder = os.path.join(self._directory, b"%d" % time.time_ns())
        kept_at = os.path.join(folder, path)
        if len(kept_at) > LONGEST_KEPT_PATH:
            kept_at = os.path.join(folder, path.rpartition(b"/")[2])
        os.makedirs(os.path.dirname(kept_at), mode=0o700, exist_ok=True)
        return kept_at
