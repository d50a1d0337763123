"""Files of a tree to come, written while they arrive: a first sync need not wait for the last one.

Owns the directory that they are in until a transition takes them over. What is there has the
content, mode and time of its entry; whether the tree has that entry is looked at then. Being ahead
is a saving only: what cannot be written here is left to the transition, which says why.
Refuses to know blobs: the caller has verified the bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devloop.cafs.beneath import Root
from devloop.cafs.errors import DevloopError

from . import staging

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from devloop.cafs.blobdir import Buffer
    from devloop.cafs.tree import File, Node

__all__ = ["Ahead", "AheadSlot", "AheadTwice"]

LONGEST_FOLDER_BYTES = 3800  # with a name, and where it is taken over to, still a path


class AheadTwice(DevloopError):
    """Two files of one upload have the same path, or one lies below the other."""

    hint = "the sender is broken or hostile; if it is devloop itself, report it"

    def __init__(self, directory: bytes) -> None:
        super().__init__(f"files in {directory[:80]!r} that were sent before, or lie below a file")


class Ahead:
    """One upload's files. Not for several threads at once."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError; what an earlier one left there is removed."""
        self.directory = directory
        staging.discard(directory)
        self.folders: dict[bytes, dict[bytes, File]] = {b"": {}}
        self._root = Root(directory)
        self._writer = staging.FileWriter()
        self.is_spoiled = False  # it holds nothing any more, and takes nothing

    def add(self, folder: bytes, files: Iterable[tuple[bytes, File, Buffer]]) -> None:
        """Raises PathEscapes for a folder that could lie elsewhere, AheadTwice."""
        if self.is_spoiled or len(folder) > LONGEST_FOLDER_BYTES:
            return
        try:
            self._add(folder, files)
        except (FileExistsError, NotADirectoryError) as error:
            raise AheadTwice(folder) from error
        except OSError:
            self.discard()

    def _add(self, folder: bytes, files: Iterable[tuple[bytes, File, Buffer]]) -> None:
        written = self._folder(folder)
        directory_fd, _ = self._root.parent(folder + b"/x" if folder else b"x")
        for name, entry, data in files:
            self._writer.write(directory_fd, name, entry, data)
            written[name] = entry

    def _folder(self, folder: bytes) -> dict[bytes, File]:
        known = self.folders.get(folder)
        if known is None:
            self._root.mkdir(folder, 0o700)
            above = folder
            while (above := above.rpartition(b"/")[0]) not in self.folders:
                self.folders[above] = {}
            known = self.folders[folder] = {}
        return known

    def close(self) -> None:
        """Idempotent; the files stay."""
        self._root.close()

    def discard(self) -> None:
        """Idempotent."""
        self.is_spoiled = True
        self.folders = {b"": {}}
        self.close()
        staging.remove(self.directory)

    def move(self, directory: Path) -> None:
        """To a directory that is not there yet. Raises OSError."""
        self.close()
        self.directory = self.directory.rename(directory)

    def fits(self, tree: Node) -> bool:
        """Is everything here as the tree has it?"""
        return all(
            (node := _node_at(tree, folder)) is not None and files.items() <= node.entries.items()
            for folder, files in self.folders.items()
        )

    def whole_folders(self, tree: Node) -> dict[bytes, Node]:
        """The folders of which everything in the tree is here; only for a tree that fits."""
        return {
            folder: node
            for folder, files in self.folders.items()
            if folder
            and (node := _node_at(tree, folder)) is not None
            and len(files) == len(node.entries)
        }

    def holds(self, folder: bytes, name: bytes) -> bool:
        return name in self.folders.get(folder, ())


class AheadSlot:
    """A workspace's `ahead/`, and the upload that waits there for the next transition."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._waiting: Ahead | None = None

    def clear(self) -> None:
        """What a killed agent has left there."""
        staging.remove(self._directory)

    def begin(self) -> Ahead | None:
        """For one upload at a time; `end` hands it to the next transition. None when the disk does
        not let it."""
        try:
            return Ahead(self._directory)
        except OSError:
            return None

    def end(self, ahead: Ahead) -> None:
        ahead.close()
        if not ahead.is_spoiled:
            self._waiting = ahead

    def drop(self, ahead: Ahead | None = None) -> None:
        """What no transition has taken over; with `ahead`, unless there is another one now."""
        if self._waiting is not None and ahead in (None, self._waiting):
            self._waiting.discard()
            self._waiting = None

    def whole_folders(self, target: Node) -> dict[bytes, Node]:
        """The folders of which everything in the target is there."""
        if self._waiting is None or not self._waiting.fits(target):
            return {}
        return self._waiting.whole_folders(target)

    def take_over(self, target: Node, directory: Path) -> Ahead | None:
        """Moves what fits the target to `directory`; anything else is discarded. Raises OSError."""
        ahead, self._waiting = self._waiting, None
        if ahead is None:
            return None
        if ahead.fits(target):
            ahead.move(directory)
            return ahead
        ahead.discard()
        return None


def _node_at(tree: Node, folder: bytes) -> Node | None:
    node: Node | None = tree
    for name in folder.split(b"/") if folder else ():
        node = node.children.get(name) if node is not None else None
    return node
