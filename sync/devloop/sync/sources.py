"""Where on the laptop the bytes of a digest are, and reading them for upload.

A scan is a little old when its files are read: bytes that no longer hash to the digest are
refused here, and a new scan has to say what they are now.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

from devloop.cafs.digest import digest_of
from devloop.cafs.errors import DevloopError
from devloop.cafs.tree import File, walk_tree

from .hashing import open_regular

if TYPE_CHECKING:
    from devloop.cafs.digest import Digest
    from devloop.cafs.tree import Change, Entry, Node

__all__ = ["SourceChanged", "Sources"]


class SourceChanged(DevloopError):
    """A file is no longer what the scan saw. Scan its directory again."""

    hint = "it is being written; it is tried again as soon as it is quiet"

    def __init__(self, path: bytes, why: str) -> None:
        super().__init__(f"{os.fsdecode(path)} changed while it was being sent: {why}")
        self.path = path


class Sources:
    """The files of one scan, by digest. Paths are relative to the project."""

    def __init__(self, prefix: bytes, tree: Node, changed: list[Change]) -> None:
        self._prefix = prefix
        self._tree = tree
        self._recent = {
            change.new.digest: change.path for change in changed if isinstance(change.new, File)
        }
        self._all: dict[Digest, bytes] | None = None

    def path_of(self, digest: Digest) -> bytes | None:
        """A path whose file had that digest.

        Costs nothing for what this scan found changed; the first question about anything else
        walks the tree once.
        """
        path = self._recent.get(digest)
        if path is not None:
            return path
        if self._all is None:
            self._all = {
                entry.digest: path
                for path, entry in walk_tree(self._tree)
                if isinstance(entry, File)
            }
        return self._all.get(digest)

    def read_blob(self, path: bytes, expected: Digest) -> bytes:
        """The bytes of a file. Raises SourceChanged unless they hash to `expected`.

        A file that has only grown since the scan (a log) still yields what the scan saw.
        """
        with self._opened(path) as file:
            data = file.read()
        if digest_of(data) == expected:
            return data
        entry = self._entry(path)
        if isinstance(entry, File) and entry.size_bytes < len(data):
            data = data[: entry.size_bytes]
            if digest_of(data) == expected:
                return data
        raise SourceChanged(path, "other bytes")

    def open_blob(self, path: bytes, expected: Digest) -> BinaryIO:
        """A file to read in pieces, for what is too large to hold; the caller closes it.

        Raises SourceChanged when the stat is not the scan's. What is read later can still differ:
        the receiver's hash has the last word.
        """
        file = self._opened(path)
        found = os.fstat(file.fileno())
        entry = self._entry(path)
        if (
            isinstance(entry, File)
            and entry.digest == expected
            and (entry.size_bytes, entry.mtime_ns) == (found.st_size, found.st_mtime_ns)
        ):
            return file
        file.close()
        raise SourceChanged(path, "another size or time")

    def _opened(self, path: bytes) -> BinaryIO:
        try:
            return os.fdopen(open_regular(self._prefix + path), "rb", buffering=0)
        except OSError as error:
            raise SourceChanged(path, error.strerror or str(error)) from error

    def _entry(self, path: bytes) -> Entry | None:
        *above, name = path.split(b"/")
        node = self._tree
        for component in above:
            below = node.children.get(component)
            if below is None:
                return None
            node = below
        return node.entries.get(name)
