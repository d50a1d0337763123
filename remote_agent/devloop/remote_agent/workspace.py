"""A workspace: the directory on the box that follows the laptop's tree.

Owns the directory, the record of the tree that it holds, and transitions between trees. A
transition is staged (everything that could fail for want of a blob or of disk space) before it is
applied (renames, deletions), and a killed agent can take it up again: the record names every tree
that files may come from until the last rename is done. Knows nothing of runs: the caller sees to
it that none is live.

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

import contextlib
import os
import stat
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.beneath import Root
from devloop.cafs.errors import BlobCorrupt, BlobMissing, DevloopError
from devloop.cafs.store import disk_full
from devloop.cafs.tree import (
    Change,
    Dir,
    Entry,
    File,
    Node,
    Symlink,
    decode_node,
    diff_trees,
    empty_tree,
    load_tree,
)

from . import staging
from .ahead import Ahead
from .staging import Staging
from .workspace_state import (
    WorkspaceBroken,
    WorkspaceState,
    encode_state,
    read_state,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

    from devloop.cafs.digest import Digest
    from devloop.cafs.store import BlobStore

__all__ = ["Applied", "SavedAside", "Staged", "Workspace", "WorkspaceBroken"]

DIRECTORY_BYTES = 4096  # what a rename or a new directory may need on a full disk
LONGEST_KEPT_PATH = 4000
BEGUN, DONE = "begun.json", "done.json"


@dataclass(frozen=True, slots=True)
class SavedAside:
    path: bytes
    kept_at: bytes


class _Records(NamedTuple):
    """What state.json is to say amid the transition and after it; both lie in staging/."""

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
    records: _Records | None = None  # None when there is nothing to do
    leaves_rest: bool = False  # in staging/, after all moves
    bytes_written: int = 0
    files_written: int = 0


@dataclass(slots=True)
class Applied:
    files_written: int = 0
    files_deleted: int = 0
    bytes_written: int = 0
    saved_aside: list[SavedAside] = field(default_factory=list)


class Workspace:
    """One project's directory on the box. Not safe for concurrent calls: the caller holds a lock.

    Raises WorkspaceBroken when its own files cannot be used, StoreFull when the disk is full.
    """

    def __init__(self, directory: Path, store: BlobStore, name: str) -> None:
        self._directory = directory
        self._store = store
        self.files = directory / "files"
        self._staging = directory / "staging"
        self._ensure_directories()
        self._state = read_state(self._state_path) or WorkspaceState(name=name)
        self._current: Node | None = None
        self._is_staging_empty = True
        self._ahead: Ahead | None = None

    @property
    def id(self) -> str:
        return self._directory.name

    @property
    def name(self) -> str:
        return self._state.name

    @property
    def current(self) -> Digest | None:
        """The tree that `files` holds; None before the first transition, or amid one."""
        return None if self._state.pending else self._state.current

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

    # -- staging

    def begin_ahead(self) -> Ahead | None:
        """For one upload at a time; `end_ahead` hands it to the next transition. None when the disk
        does not let it."""
        try:
            return Ahead(self._directory / "ahead")
        except OSError:
            return None

    def end_ahead(self, ahead: Ahead) -> None:
        ahead.close()
        if not ahead.is_spoiled:
            self._ahead = ahead

    def drop_ahead(self, ahead: Ahead | None = None) -> None:
        """What no transition has taken over; with `ahead`, unless there is another one now."""
        if self._ahead is not None and ahead in (None, self._ahead):
            self._ahead.discard()
            self._ahead = None

    def _new_whole_folders(self, target: Node) -> dict[bytes, Node]:
        """Those that one rename brings in: on a first sync nobody looks at each file then."""
        if self._ahead is None or not self._ahead.fits(target):
            return {}
        whole = self._ahead.whole_folders(target)
        return {path: node for path, node in whole.items() if self._lstat(path) is None}

    def _take_over_ahead(self, target: Node) -> Ahead | None:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        if ahead.fits(target):
            ahead.move(self._staging / os.fsdecode(staging.AHEAD))
            return ahead
        ahead.discard()
        return None

    def stage(self, target: Digest, *, repair: bool = False) -> Staged:
        """Writes what the transition to `target` needs beside its place; `files` stays as it is.

        With `repair`, files of the tree that a run has deleted come back too; that looks at every
        file, so it is for the first transition of a session.
        When blobs are missing or corrupt, the result's `missing` names them and nothing is staged.
        Raises TreeInvalid for a malformed tree, StoreFull when the disk is full.
        """
        if not self._is_staging_empty:
            self._discard_staging()
        damaged = self._ensure_files()
        with self._opened_root():
            return self._stage(target, repair=repair or damaged)

    def _stage(self, target: Digest, *, repair: bool) -> Staged:
        bases = self.trees()
        try:
            node = load_tree(target, self._store.get, bases[0] if bases else None)
        except (BlobMissing, BlobCorrupt):
            return Staged(empty_tree(), [], missing=self._unreadable_nodes(target))
        whole = self._new_whole_folders(node) if not bases else {}
        changes = _changes(bases, node) if bases else {c.path: c for c in _all_new(node, whole)}
        if bases and (repair or self._lacks_directories(bases[0], changes)):
            # A change that is known from a base says more: whether something of ours makes way.
            changes = {change.path: change for change in self._absent(node)} | changes
        staged = Staged(node, [changes[path] for path in sorted(changes)], whole)
        staged.missing = self._store.missing(
            c.new.digest for c in staged.changes if isinstance(c.new, File)
        )
        if staged.missing:
            return staged
        size_bytes = sum(c.new.size_bytes for c in staged.changes if isinstance(c.new, File))
        with _disk_errors(self._staging, size_bytes):
            self._stage_all(staged)
            if not staged.missing and (staged.changes or target != self.current):
                staged.records = self._stage_records(target)
        return staged

    def _stage_records(self, target: Digest) -> _Records:
        """Written ahead, so that on a full disk no transition is begun that cannot be recorded."""
        pending = tuple(dict.fromkeys([*self._state.pending, target]))
        begun = replace(self._state, pending=pending)
        done = replace(self._state, current=target, pending=())
        try:
            (self._staging / BEGUN).write_bytes(encode_state(begun))
            (self._staging / DONE).write_bytes(encode_state(done))
        except BaseException:
            self._discard_staging()
            raise
        return _Records(begun, done)

    def _unreadable_nodes(self, target: Digest) -> list[Digest]:
        """Every one that can be known without the others: the sender sends them all at once."""
        unreadable = []
        seen, todo = {target}, [target]
        while todo:
            digest = todo.pop()
            try:
                entries = decode_node(self._store.get(digest))
            except (BlobMissing, BlobCorrupt):
                unreadable.append(digest)
                continue
            below = {entry.digest for entry in entries.values() if isinstance(entry, Dir)}
            todo += below - seen
            seen |= below
        return unreadable

    @contextlib.contextmanager
    def _opened_root(self) -> Iterator[None]:
        """One Root a pass: it remembers directories, which runs may replace in between."""
        with Root(self.files) as self._root:
            yield

    def _lacks_directories(self, base: Node, paths: Iterable[bytes]) -> bool:
        """Has a run removed or replaced directories that the transition is to change?"""
        parents = {path.rpartition(b"/")[0] for path in paths} - {b""}
        return any(
            isinstance(entry_at(base, parent), Dir) and not self._is_directory(parent)
            for parent in parents
        )

    def _absent(self, node: Node, directory: bytes = b"") -> Iterator[Change]:
        """What is not there; and directories in whose place is something else."""
        names = self._names_in(directory)
        prefix = directory + b"/" if directory else b""
        for name, entry in node.entries.items():
            path = prefix + name
            if name not in names or (isinstance(entry, Dir) and not self._is_directory(path)):
                yield Change(path, None, entry)
            if isinstance(entry, Dir):
                yield from self._absent(node.children[name], path)

    def _stage_all(self, staged: Staged) -> None:
        self._is_staging_empty = False
        changes = iter(staged.changes)
        new_dirs: dict[bytes, bytes] = {}
        try:
            ahead = self._take_over_ahead(staged.target)
            staged.leaves_rest = ahead is not None
            with Staging(self._staging, self._store, ahead) as place_maker:
                for change in changes:
                    self._stage_one(change, staged, place_maker, new_dirs)
        except (BlobMissing, BlobCorrupt) as error:
            self._discard_staging()
            staged.moves.clear()
            rest = (change.new.digest for change in changes if isinstance(change.new, File))
            staged.missing = [d for d in dict.fromkeys([error.digest, *rest]) if self._lacks(d)]
        except BaseException:
            self._discard_staging()
            raise

    def _lacks(self, digest: Digest) -> bool:
        """All bad blobs are named at once, or healing a torn store would take as many rounds."""
        try:
            self._store.get(digest)
        except (BlobMissing, BlobCorrupt):
            return True
        return False

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
                    staged.bytes_written += _size_bytes(whole)
        if inside is None:
            staged.moves[path] = place

    def _merges(self, change: Change, may_exist: bool) -> bool:
        """Is something there that the new directory takes over, or that makes way for it?"""
        return may_exist and (change.old is not None or self._lstat(change.path) is not None)

    def _discard_staging(self) -> None:
        staging.discard(self._staging)
        self._is_staging_empty = True

    # -- applying

    def apply(self, staged: Staged) -> Applied:
        """Moves `files` to the staged tree. No run may be live.

        A file that does not look as the last transition left it has changed on the box: it is
        moved to aside/, and named in the result.
        """
        applied = Applied(files_written=staged.files_written, bytes_written=staged.bytes_written)
        if staged.records is not None:
            bases = self.trees()
            with _disk_errors(self.files, DIRECTORY_BYTES):
                self._take_record(BEGUN, staged.records.begun)
                self._ensure_files()
                with self._opened_root():
                    self._move(staged, bases, applied)
                self._take_record(DONE, staged.records.done)
        self._finish_staging(staged)
        self._current = staged.target
        return applied

    def _move(self, staged: Staged, bases: list[Node], applied: Applied) -> None:
        """Children go before their parents, and come after them."""
        for change in reversed(staged.changes):
            self._permitted(change.path, partial(self._delete, change, bases, applied))
        for change in staged.changes:
            self._permitted(change.path, partial(self._create, change, staged, bases, applied))

    def _permitted(self, path: bytes, act: Callable[[], None]) -> None:
        """Runs `act`, again where a run has taken away the rights to a directory of its own."""
        try:
            act()
        except PermissionError:
            self._unlock(path)
            act()

    def _unlock(self, path: bytes) -> None:
        parts = path.split(b"/")
        for depth in range(1, len(parts) + 1):
            above = b"/".join(parts[:depth])
            found = self._root.lstat(above)
            if found is None or not stat.S_ISDIR(found.st_mode):
                return
            if found.st_mode & 0o700 != 0o700:
                self._root.chmod(above, stat.S_IMODE(found.st_mode) | 0o700)

    def _delete(self, change: Change, bases: list[Node], applied: Applied) -> None:
        """What is gone, or makes way for another kind of entry."""
        if change.new is None or _makes_way(change):
            self._remove(change.path, bases, applied)
            if change.path.endswith(b".py"):
                self._remove_bytecode(change.path, with_cache=True)

    def _remove(self, path: bytes, bases: list[Node], applied: Applied) -> None:
        found = self._lstat(path)
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
        elif self._is_ours(path, found, bases):
            os.unlink(name, dir_fd=directory_fd)
            applied.files_deleted += 1
        else:
            self._set_aside(path, applied)

    def _create(self, change: Change, staged: Staged, bases: list[Node], applied: Applied) -> None:
        place = staged.moves.get(change.path)
        if place is not None:
            self._move_in(change, place, bases, applied)
        elif isinstance(change.new, Dir) and not self._inside_new_directory(change, staged):
            self._ensure_directory(change.path, change.new.mode, applied)

    def _inside_new_directory(self, change: Change, staged: Staged) -> bool:
        path = change.path
        while path := path.rpartition(b"/")[0]:
            if path in staged.moves:
                return True
        return False

    def _ensure_directory(self, path: bytes, mode: int, applied: Applied) -> None:
        if not self._is_directory(path):
            if self._lstat(path) is not None:
                self._set_aside(path, applied)
            directory_fd, name = self._parent(path, applied)
            os.mkdir(name, dir_fd=directory_fd)
        self._root.chmod(path, mode | 0o700)

    def _move_in(self, change: Change, place: bytes, bases: list[Node], applied: Applied) -> None:
        path = change.path
        found = self._lstat(path)
        if found is not None and (
            stat.S_ISDIR(found.st_mode)
            or not (self._is_ours(path, found, bases) or self._matches(path, found, change.new))
        ):
            self._set_aside(path, applied)
        directory_fd, name = self._parent(path, applied)
        os.rename(os.fsencode(self._staging) + b"/" + place, name, dst_dir_fd=directory_fd)
        if path.endswith(b".py"):
            self._remove_bytecode(path)

    def _parent(self, path: bytes, applied: Applied) -> tuple[int, bytes]:
        """The directory of `path`; whatever a run has put in its place is set aside."""
        try:
            return self._root.parent(path, create=True)
        except (NotADirectoryError, DevloopError):
            parts = path.split(b"/")[:-1]
            for depth in range(1, len(parts) + 1):
                above = b"/".join(parts[:depth])
                if not self._is_directory(above):
                    self._set_aside(above, applied)
                    break
            return self._root.parent(path, create=True)

    def _remove_bytecode(self, path: bytes, *, with_cache: bool = False) -> None:
        """Python would run the old bytecode of a source of the same size and second.

        `with_cache`: and nothing but bytecode must keep a deleted package's directory.
        """
        parent, _, name = path.rpartition(b"/")
        cache = parent + b"/__pycache__" if parent else b"__pycache__"
        if not self._is_directory(cache):
            return
        stem = name[:-2]  # with its dot
        cache_fd, _ = self._root.parent(cache + b"/x")
        for found in os.listdir(cache_fd):
            if os.fsencode(found).startswith(stem):
                with contextlib.suppress(IsADirectoryError):
                    os.unlink(found, dir_fd=cache_fd)
        if with_cache:
            with contextlib.suppress(OSError):
                self._root.rmdir(cache)

    # -- what is on disk

    def _lstat(self, path: bytes) -> os.stat_result | None:
        try:
            return self._root.lstat(path)
        except PermissionError:
            self._unlock(path)
            return self._root.lstat(path)

    def _names_in(self, directory: bytes) -> set[bytes]:
        try:
            return set(self._root.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except PermissionError:
            self._unlock(directory)
            return set(self._root.listdir(directory))

    def _is_directory(self, path: bytes) -> bool:
        found = self._lstat(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def _is_ours(self, path: bytes, found: os.stat_result, bases: Iterable[Node]) -> bool:
        """Does what is at `path` look as a transition left it?"""
        return any(self._matches(path, found, entry_at(base, path)) for base in bases)

    def _matches(self, path: bytes, found: os.stat_result, entry: Entry | None) -> bool:
        match entry:
            case File(_, size_bytes, mtime_ns, _):
                return (
                    stat.S_ISREG(found.st_mode)
                    and found.st_size == size_bytes
                    and found.st_mtime_ns == mtime_ns
                )
            case Symlink(target):
                return stat.S_ISLNK(found.st_mode) and self._root.readlink(path) == target
            case Dir():
                return stat.S_ISDIR(found.st_mode)
            case None:
                return False

    def _set_aside(self, path: bytes, applied: Applied) -> None:
        kept_at = self._place_aside(path)
        directory_fd, name = self._root.parent(path)
        os.rename(name, kept_at, src_dir_fd=directory_fd)
        self._root.forget(path)
        applied.saved_aside.append(SavedAside(path, kept_at))

    def _place_aside(self, path: bytes) -> bytes:
        stamp = b"%d" % time.time_ns()
        folder = os.path.join(os.fsencode(self._directory), b"aside", stamp)
        kept_at = os.path.join(folder, path)
        if len(kept_at) > LONGEST_KEPT_PATH:
            kept_at = os.path.join(folder, path.rpartition(b"/")[2])
        os.makedirs(os.path.dirname(kept_at), mode=0o700, exist_ok=True)
        return kept_at

    # -- its own files

    @property
    def _state_path(self) -> Path:
        return self._directory / "state.json"

    def _ensure_directories(self) -> None:
        try:
            self.runs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.files.mkdir(mode=0o700, exist_ok=True)
            staging.remove(self._directory / "ahead")
            self._discard_staging()
        except OSError as error:
            raise WorkspaceBroken(f"cannot make {error.filename}: {error.strerror}") from error

    def _ensure_files(self) -> bool:
        """True when a run had removed the directory, or put something else in its place."""
        try:
            mode = self.files.lstat().st_mode
            if stat.S_ISDIR(mode):
                if mode & 0o700 != 0o700:
                    self.files.chmod(stat.S_IMODE(mode) | 0o700)
                return False
            self.files.rename(os.fsdecode(self._place_aside(b"files")))
        except FileNotFoundError:
            pass
        self.files.mkdir(mode=0o700)
        return True

    def _take_record(self, name: str, state: WorkspaceState) -> None:
        (self._staging / name).replace(self._state_path)
        self._state = state

    def _finish_staging(self, staged: Staged) -> None:
        places = (os.path.join(os.fsencode(self._staging), p) for p in staged.moves.values())
        if staged.leaves_rest or any(os.path.lexists(place) for place in places):
            self._discard_staging()
        self._is_staging_empty = True


@contextlib.contextmanager
def _disk_errors(path: Path, need_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = disk_full(error, path, need_bytes)
        if full is not None:
            raise full from error
        where = os.fsdecode(error.filename) if error.filename else path
        raise WorkspaceBroken(f"cannot change {where} in {path}: {error.strerror}") from error


def _changes(bases: list[Node], target: Node) -> dict[bytes, Change]:
    """What differs between the target and any tree that files on disk may come from, by path.

    Of several changes of one path, one that makes way for another kind of entry counts.
    """
    changes: dict[bytes, Change] = {}
    for base in bases:
        for change in diff_trees(base, target):
            if change.path not in changes or _makes_way(change):
                changes[change.path] = change
    return changes


def _all_new(target: Node, whole: Container[bytes], prefix: bytes = b"") -> Iterator[Change]:
    for name, entry in target.entries.items():
        path = prefix + name
        yield Change(path, None, entry)
        if isinstance(entry, Dir) and path not in whole:
            yield from _all_new(target.children[name], whole, path + b"/")


def _size_bytes(node: Node) -> int:
    return sum(entry.size_bytes for entry in node.entries.values() if isinstance(entry, File))


def _makes_way(change: Change) -> bool:
    return change.old is not None and type(change.old) is not type(change.new)


def entry_at(node: Node, path: bytes) -> Entry | None:
    *parents, name = path.split(b"/")
    for parent in parents:
        below = node.children.get(parent)
        if below is None:
            return None
        node = below
    return node.entries.get(name)
