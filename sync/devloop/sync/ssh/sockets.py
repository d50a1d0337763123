"""Where the sockets of one connection lie: with the user's others, or where a path is short enough.

Owns the length of a socket's path, and the folders that are made for the sake of it. Knows neither
`ssh` nor gRPC.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from devloop.cafs import dirs

__all__ = ["MAX_PATH_BYTES", "Place", "fits", "new_place"]

MAX_PATH_BYTES = 103  # on macOS; Linux takes 107


class Place(NamedTuple):
    """A path where nothing is. `folder` was made for it alone, and goes with it."""

    path: Path
    folder: Path | None = None

    def clear(self) -> None:
        """Once nobody uses the socket any more. Idempotent."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        if self.folder is not None:
            with contextlib.suppress(OSError):
                self.folder.rmdir()


def new_place(prefix: str, *, spare_bytes: int = 0) -> Place:
    """In a directory that is the user's alone. Raises DirectoryUnusable.

    `spare_bytes`: for what is appended to the path.
    """
    directory = dirs.runtime_dir()
    dirs.ensure_private(directory)
    path = directory / f"{prefix}-{os.urandom(4).hex()}"
    if fits(path, spare_bytes=spare_bytes):
        return Place(path)
    import tempfile  # rarely needed, and slow to import

    folder = Path(tempfile.mkdtemp(prefix="dl-", dir="/tmp"))
    return Place(folder / prefix, folder)


def fits(path: Path, *, spare_bytes: int = 0) -> bool:
    return len(os.fsencode(path)) + spare_bytes <= MAX_PATH_BYTES
