"""The first half of a transition: everything that could fail for want of a blob or of disk space.

Owns which paths a transition has to change, and what of it is written to staging/: new files, new
directories, the records of the transition to come. Refuses to change anything that runs see.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from devloop.cafs.errors import BlobCorrupt, BlobMissing
from devloop.cafs.tree import (
    Change,
    Dir,
    File,
    Symlink,
    decode_node,
    empty_tree,
    load_tree,
)

from .changes import all_new, changes_between, entry_at, size_bytes_of_files
from .staging import Staging
from .transition import BEGUN, DONE, Records, Staged, disk_errors
from .workspace_state import encode_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from devloop.cafs.digest import Digest
    from devloop.cafs.store import BlobStore
    from devloop.cafs.tree import Node

    from .ahead import AheadSlot
    from .staging import StagingDirectory
    from .workspace_files import WorkspaceFiles
    from .workspace_state import WorkspaceState

__all__ = ["Stager"]


class Stager:
    """Stages one transition. When it fails, or lacks blobs, it leaves nothing in `staging`."""

    def __init__(
        self,
        store: BlobStore,
        *,
        files: WorkspaceFiles,
        staging: StagingDirectory,
        ahead: AheadSlot,
    ) -> None:
        self._store = store
        self._files = files
        self._staging = staging
        self._ahead = ahead

    def stage(
        self, target: Digest, bases: list[Node], state: WorkspaceState, *, repair: bool
    ) -> Staged:
        """To `target` from what files may look like, `bases`; `repair` looks at every file.

        Raises TreeInvalid, StoreFull, WorkspaceBroken.
        """
        try:
            node = load_tree(target, self._store.get, bases[0] if bases else None)
        except (BlobMissing, BlobCorrupt) as error:
            # Named even if another client has sent it since: nothing was staged.
            lacking = [error.digest, *_unreadable_nodes(self._store, target)]
            return Staged(empty_tree(), [], missing=list(dict.fromkeys(lacking)))
        staged = self._planned(node, bases, repair=repair)
        blobs = [c.new for c in staged.changes if isinstance(c.new, File)]
        staged.missing = self._store.missing(entry.digest for entry in blobs)
        if staged.missing:
            return staged
        with disk_errors(self._staging.path, sum(entry.size_bytes for entry in blobs)):
            self._stage_all(staged)
            if not staged.missing and (staged.changes or target != state.settled):
                staged.records = self._stage_records(target, state)
        return staged

    # -- what is to change

    def _planned(self, node: Node, bases: list[Node], *, repair: bool) -> Staged:
        if not bases:
            whole = self._new_whole_folders(node)
            changes = {change.path: change for change in all_new(node, whole)}
        else:
            whole = {}
            changes = changes_between(bases, node)
            if repair or self._lacks_directories(bases[0], changes):
                # A change known from a base says more: whether something of ours makes way.
                changes = {change.path: change for change in self._absent(node)} | changes
        return Staged(node, [changes[path] for path in sorted(changes)], whole)

    def _new_whole_folders(self, target: Node) -> dict[bytes, Node]:
        """Those that one rename brings in: on a first sync nobody looks at each file then."""
        whole = self._ahead.whole_folders(target)
        return {path: node for path, node in whole.items() if self._files.lstat(path) is None}

    def _lacks_directories(self, base: Node, paths: Iterable[bytes]) -> bool:
        """Has a run removed or replaced directories that the transition is to change?"""
        parents = {path.rpartition(b"/")[0] for path in paths} - {b""}
        return any(
            isinstance(entry_at(base, parent), Dir) and not self._files.is_directory(parent)
            for parent in parents
        )

    def _absent(self, node: Node, directory: bytes = b"") -> Iterator[Change]:
        """What is not there; and directories in whose place is something else."""
        names = self._files.names_in(directory)
        prefix = directory + b"/" if directory else b""
        for name, entry in node.entries.items():
            path = prefix + name
            if name not in names or (isinstance(entry, Dir) and not self._files.is_directory(path)):
                yield Change(path, None, entry)
            if isinstance(entry, Dir):
                yield from self._absent(node.children[name], path)

    # -- writing it

    def _stage_all(self, staged: Staged) -> None:
        self._staging.is_empty = False
        changes = iter(staged.changes)
        new_dirs: dict[bytes, bytes] = {}
        try:
            ahead = self._ahead.take_over(staged.target, self._staging.ahead)
            staged.leaves_rest = ahead is not None
            with Staging(self._staging.path, self._store, ahead) as place_maker:
                for change in changes:
                    self._stage_one(change, staged, place_maker, new_dirs)
        except (BlobMissing, BlobCorrupt) as error:
            self._staging.discard()
            staged.moves.clear()
            rest = (change.new.digest for change in changes if isinstance(change.new, File))
            # The first is named even if another client has sent it since: nothing was staged.
            lacking = (digest for digest in rest if _lacks(self._store, digest))
            staged.missing = list(dict.fromkeys([error.digest, *lacking]))
        except BaseException:
            self._staging.discard()
            raise

    def _stage_one(
        self, change: Change, staged: Staged, stage: Staging, new_dirs: dict[bytes, bytes]
    ) -> None:
        path, entry = change.path, change.new
        if entry is None:
            return
        parent, _, name = path.rpartition(b"/")
        above = new_dirs.get(parent)
        inside = stage.inside(above, name) if above is not None else None
        if isinstance(entry, Dir) and inside is None and self._merges(change, above is None):
            return
        place_ahead = stage.place_ahead(parent, name, entry)
        place = inside or place_ahead or stage.new_place()
        is_there = place == place_ahead
        match entry:
            case File(_, size_bytes):
                staged.bytes_written += size_bytes if is_there else stage.file(place, entry)
                staged.files_written += 1
            case Symlink(target):
                stage.symlink(place, target)
                staged.files_written += 1
            case Dir(mode):
                # A directory that the box lacks is built whole and moved in by one rename.
                stage.directory(place, mode | 0o700, is_there=is_there)
                new_dirs[path] = place
                if (whole := staged.whole.get(path)) is not None:
                    staged.files_written += len(whole.entries)
                    staged.bytes_written += size_bytes_of_files(whole)
        if inside is None:
            staged.moves[path] = place

    def _merges(self, change: Change, may_exist: bool) -> bool:
        """Is something there that the new directory takes over, or that makes way for it?"""
        return may_exist and (change.old is not None or self._files.lstat(change.path) is not None)

    def _stage_records(self, target: Digest, state: WorkspaceState) -> Records:
        """Written ahead, so that on a full disk no transition is begun that cannot be recorded."""
        pending = tuple(dict.fromkeys([*state.pending, target]))
        begun = replace(state, pending=pending)
        done = replace(state, current=target, pending=())
        try:
            (self._staging.path / BEGUN).write_bytes(encode_state(begun))
            (self._staging.path / DONE).write_bytes(encode_state(done))
        except BaseException:
            self._staging.discard()
            raise
        return Records(begun, done)


def _unreadable_nodes(store: BlobStore, target: Digest) -> list[Digest]:
    """Every one that can be known without the others: the sender sends them all at once."""
    unreadable = []
    seen, todo = {target}, [target]
    while todo:
        digest = todo.pop()
        try:
            entries = decode_node(store.get(digest))
        except (BlobMissing, BlobCorrupt):
            unreadable.append(digest)
            continue
        below = {entry.digest for entry in entries.values() if isinstance(entry, Dir)}
        todo += below - seen
        seen |= below
    return unreadable


def _lacks(store: BlobStore, digest: Digest) -> bool:
    """All bad blobs are named at once, or healing a torn store would take as many rounds."""
    try:
        store.get(digest)
    except (BlobMissing, BlobCorrupt):
        return True
    return False
