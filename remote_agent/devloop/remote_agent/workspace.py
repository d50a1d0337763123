"""A workspace: the directory on the box that follows the laptop's tree.

Owns the directory, the record of the tree that it holds, and transitions between trees. A
transition is staged (everything that could fail for want of a blob or of disk space) before it is
applied (renames, deletions), and a killed agent can take it up again: the record names both trees
until the last rename is done. Knows nothing of runs: the caller sees to it that none is live.

On disk, below the workspace's own directory:
    files/         what runs see
    state.json     {"version", "name", "local_root", "current", "pending"}; digests in hex or null
    staging/       new files on their way into `files`; emptied when the workspace is opened
    aside/         files that had changed on the box when a transition came for their path
    runs/          see runs.py
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cafs.beneath import Root
from devloop.cafs.digest import Digest
from devloop.cafs.errors import BlobCorrupt, BlobMissing, DevloopError
from devloop.cafs.store import disk_full
from devloop.cafs.tree import (
    Change,
    Dir,
    Entry,
    File,
    Node,
    Symlink,
    diff_trees,
    empty_tree,
    load_tree,
    walk_tree,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from devloop.cafs.store import BlobStore

__all__ = ["Applied", "SavedAside", "Staged", "Workspace", "WorkspaceBroken"]

STATE_VERSION = 1


class WorkspaceBroken(DevloopError):
    """A workspace's own files cannot be used."""

    hint = "`devloop doctor` shows where it is; removing that folder makes devloop start it anew"


@dataclass(frozen=True, slots=True)
class WorkspaceState:
    """What state.json holds."""

    name: str
    local_root: str | None = None
    current: Digest | None = None
    pending: Digest | None = None


@dataclass(frozen=True, slots=True)
class SavedAside:
    path: bytes
    kept_at: bytes


@dataclass(slots=True)
class Staged:
    """A transition whose every new byte lies in staging/."""

    target: Node
    changes: list[Change]
    # Staged files and whole new directories, by the path that they go to.
    moves: dict[bytes, bytes] = field(default_factory=dict)
    missing: list[Digest] = field(default_factory=list)
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

    Raises WorkspaceBroken when its own files cannot be read, StoreFull when the disk is full.
    """

    def __init__(self, directory: Path, store: BlobStore, name: str) -> None:
        self._directory = directory
        self._store = store
        self.files = directory / "files"
        self._staging = directory / "staging"
        self._ensure_directories()
        self._state = self._read_state() or WorkspaceState(name=name)
        self._current: Node | None = None
        self._counter = 0

    @property
    def id(self) -> str:
        return self._directory.name

    @property
    def name(self) -> str:
        return self._state.name

    @property
    def current(self) -> Digest | None:
        """The tree that `files` holds; None before the first transition, or amid one."""
        return None if self._state.pending is not None else self._state.current

    @property
    def runs_dir(self) -> Path:
        return self._directory / "runs"

    def roots(self) -> list[Digest]:
        """The trees that garbage collection must keep."""
        return [d for d in (self._state.current, self._state.pending) if d is not None]

    def tree(self) -> Node | None:
        """The tree that `files` holds, loaded."""
        bases = self._bases()
        return bases[0] if bases else None

    # -- staging

    def stage(self, target: Digest, *, repair: bool = False) -> Staged:
        """Writes what the transition to `target` needs beside its place; `files` stays as it is.

        With `repair`, files of the tree that a run has deleted come back too; that looks at every
        file, so it is for the first transition of a session.
        When blobs are missing or corrupt, the result's `missing` names them and nothing is staged.
        Raises TreeInvalid for a malformed tree, StoreFull when the disk is full.
        """
        with self._opened_root():
            return self._stage(target, repair=repair)

    def _stage(self, target: Digest, *, repair: bool) -> Staged:
        bases = self._bases()
        known = bases[0] if bases else None
        try:
            node = load_tree(target, self._store.get, known)
        except (BlobMissing, BlobCorrupt) as error:
            return Staged(empty_tree(), [], missing=[error.digest])
        changes = _changes(bases, node)
        if repair and bases:
            changes |= {change.path: change for change in self._absent(node)}
        staged = Staged(node, [changes[path] for path in sorted(changes)])
        staged.missing = self._store.missing(
            change.new.digest for change in staged.changes if isinstance(change.new, File)
        )
        if not staged.missing:
            with _full_disk(self._staging):
                self._stage_files(staged)
        return staged

    @contextlib.contextmanager
    def _opened_root(self) -> Iterator[None]:
        """One Root a pass: it remembers directories, which runs may replace in between."""
        with Root(self.files) as self._root:
            yield

    def _absent(self, node: Node) -> Iterator[Change]:
        for path, entry in walk_tree(node):
            if not isinstance(entry, Dir) and self._lstat(path) is None:
                yield Change(path, None, entry)

    def _stage_files(self, staged: Staged) -> None:
        new_dirs: dict[bytes, bytes] = {}
        try:
            for change in staged.changes:
                self._stage_one(change, staged, new_dirs)
        except (BlobMissing, BlobCorrupt) as error:
            self._discard_staging()
            staged.moves.clear()
            staged.missing = [error.digest]
        except BaseException:
            self._discard_staging()
            raise

    def _stage_one(self, change: Change, staged: Staged, new_dirs: dict[bytes, bytes]) -> None:
        path, entry = change.path, change.new
        parent, _, name = path.rpartition(b"/")
        inside = new_dirs.get(parent)
        place = inside + b"/" + name if inside is not None else self._next_place()
        match entry:
            case File():
                staged.bytes_written += self._write_file(place, entry)
                staged.files_written += 1
            case Symlink(target):
                os.symlink(target, place)
                staged.files_written += 1
            case Dir(mode):
                # A directory that the box lacks is built whole and moved in by one rename.
                if inside is None and (change.old is not None or self._lstat(path) is not None):
                    return
                os.mkdir(place, 0o700 | mode)
                new_dirs[path] = place
            case None:
                return
        if inside is None:
            staged.moves[path] = place

    def _write_file(self, place: bytes, entry: File) -> int:
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            written = self._store.copy_to(entry.digest, fd)
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)
        return written

    def _next_place(self) -> bytes:
        self._counter += 1
        return os.fsencode(self._staging) + b"/%d" % self._counter

    def _discard_staging(self) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(mode=0o700, exist_ok=True)

    # -- applying

    def apply(self, staged: Staged) -> Applied:
        """Moves `files` to the staged tree. No run may be live.

        A file that does not look as the last transition left it has changed on the box: it is
        moved to aside/, and named in the result.
        """
        applied = Applied(files_written=staged.files_written, bytes_written=staged.bytes_written)
        if staged.changes or staged.target.digest != self._state.current:
            bases = self._bases()
            self._write_state(replace(self._state, pending=staged.target.digest))
            with _full_disk(self.files), self._opened_root():
                self._delete(staged, bases, applied)
                self._create(staged, bases, applied)
            self._write_state(replace(self._state, current=staged.target.digest, pending=None))
            self._discard_leftovers(staged)
        self._current = staged.target
        return applied

    def _delete(self, staged: Staged, bases: list[Node], applied: Applied) -> None:
        """What is gone, or makes way for another kind of entry; children before their parents."""
        for change in reversed(staged.changes):
            if change.new is None or (
                change.old is not None and type(change.old) is not type(change.new)
            ):
                self._remove(change.path, bases, applied)
                if change.path.endswith(b".py"):
                    self._remove_bytecode(change.path)

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

    def _create(self, staged: Staged, bases: list[Node], applied: Applied) -> None:
        for change in staged.changes:
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
        os.rename(place, name, dst_dir_fd=directory_fd)
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

    def _remove_bytecode(self, path: bytes) -> None:
        """Python would run the old bytecode of a source of the same size and second."""
        parent, _, name = path.rpartition(b"/")
        cache = parent + b"/__pycache__" if parent else b"__pycache__"
        stem = name[:-3] + b"."
        if not self._is_directory(cache):
            return
        cache_fd, _ = self._root.parent(cache + b"/x")
        for found in os.listdir(cache_fd):
            if os.fsencode(found).startswith(stem):
                os.unlink(found, dir_fd=cache_fd)

    # -- what is on disk

    def _lstat(self, path: bytes) -> os.stat_result | None:
        try:
            return self._root.lstat(path)
        except (NotADirectoryError, DevloopError):
            return None

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
        stamp = b"%d" % time.time_ns()
        kept_at = os.path.join(os.fsencode(self._directory), b"aside", stamp, path)
        os.makedirs(os.path.dirname(kept_at), mode=0o700, exist_ok=True)
        directory_fd, name = self._root.parent(path)
        os.rename(name, kept_at, src_dir_fd=directory_fd)
        self._root.forget(path)
        applied.saved_aside.append(SavedAside(path, kept_at))

    # -- state

    def _bases(self) -> list[Node]:
        """The trees that files on disk may come from: the current one, and one half applied."""
        if self._current is not None and self._state.pending is None:
            return [self._current]
        bases = []
        for digest in self.roots():
            try:
                bases.append(load_tree(digest, self._store.get))
            except DevloopError:
                continue  # its files then count as changed on the box, and are kept aside
        return bases

    def _ensure_directories(self) -> None:
        try:
            for directory in (self.files, self.runs_dir):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise WorkspaceBroken(f"cannot make {error.filename}: {error.strerror}") from error
        self._discard_staging()

    def _read_state(self) -> WorkspaceState | None:
        path = self._directory / "state.json"
        try:
            data = json.loads(path.read_bytes())
            if data["version"] != STATE_VERSION:
                raise WorkspaceBroken(f"{path} is of version {data['version']}")
            return WorkspaceState(
                name=data["name"],
                local_root=data["local_root"],
                current=Digest.fromhex(data["current"]) if data["current"] else None,
                pending=Digest.fromhex(data["pending"]) if data["pending"] else None,
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None  # torn by a power cut: every file then counts as changed on the box

    def _write_state(self, state: WorkspaceState) -> None:
        path = self._directory / "state.json"
        temporary = path.with_suffix(".tmp")
        data = {
            "version": STATE_VERSION,
            "name": state.name,
            "local_root": state.local_root,
            "current": state.current.hex() if state.current else None,
            "pending": state.pending.hex() if state.pending else None,
        }
        with _full_disk(path):
            temporary.write_text(json.dumps(data))
            temporary.replace(path)
        self._state = state

    def _discard_leftovers(self, staged: Staged) -> None:
        if any(os.path.lexists(place) for place in staged.moves.values()):
            self._discard_staging()


@contextlib.contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = disk_full(error, path, 0)
        if full is None:
            raise
        raise full from error


def _changes(bases: list[Node], target: Node) -> dict[bytes, Change]:
    """What differs between the target and any tree that files on disk may come from, by path."""
    changes: dict[bytes, Change] = {}
    for base in bases or [empty_tree()]:
        for change in diff_trees(base, target):
            changes.setdefault(change.path, change)
    return changes


def entry_at(node: Node, path: bytes) -> Entry | None:
    *parents, name = path.split(b"/")
    for parent in parents:
        below = node.children.get(parent)
        if below is None:
            return None
        node = below
    return node.entries.get(name)
