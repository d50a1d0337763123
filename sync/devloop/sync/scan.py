"""The tree of what is on the laptop, kept up to date by looking only where it must.

Owns which directories are looked at, and what a scan says. The look itself is `walk`'s; events
are nobody's here: a caller says which directories may have changed.

A scan replaces the remembered state in one step, so that a reader on another thread sees one scan
or the next. Two scans at once are the caller's mistake.
"""

from __future__ import annotations

import os
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError, Problem
from devloop.cafs.tree import Change, Node, diff_trees
from devloop.cafs.uncollected import uncollected

from .progress import Progress
from .statcache import NOTHING_SAVED, Row
from .walk import DirState, Environment, Ident, TooMuch, Walk, is_dir_stat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from devloop.cafs.digest import Digest

    from .ahead import Ahead
    from .ignore import Ignore
    from .statcache import StatCache

__all__ = ["RootGone", "Scan", "Scanner", "TooMuch"]


class RootGone(DevloopError):
    """The project's folder is not there, or cannot be listed: nothing is known of its files."""

    hint = "put the folder back (is its disk mounted?), or start devloop in another one"

    def __init__(self, root: Path, reason: str) -> None:
        super().__init__(f"project folder {root} is gone: {reason}")


class Scan:
    """What is on the laptop, and how it differs from the scan before."""

    def __init__(
        self, tree: Node, before: Node | None, problems: tuple[Problem, ...], *, emptied: bool
    ) -> None:
        """`problems` are those that the scan before did not have; their paths are relative.

        `emptied`: there is nothing now, and there was something: an unmounted disk looks so.
        """
        self.tree = tree
        self.problems = problems
        self.emptied = emptied
        self._before = before

    @cached_property
    def changed(self) -> list[Change]:
        """Worked out when asked for: who runs a command once never does."""
        return list(diff_trees(self._before, self.tree))


class _Wanted:
    """Directories to look at, as a tree of their components."""

    __slots__ = ("below", "here")

    def __init__(self) -> None:
        self.here = False
        self.below: dict[bytes, _Wanted] = {}

    def add(self, path: bytes) -> None:
        at = self
        for name in path.split(b"/") if path else ():
            at = at.below.setdefault(name, _Wanted())
        at.here = True


class Scanner:
    """Keeps the tree of one project folder."""

    def __init__(
        self, root: Path, ignore: Ignore, cache: StatCache, progress: Progress | None = None
    ) -> None:
        self._root = root
        self._prefix = os.fsencode(root) + b"/"
        self._ignore = ignore
        self._cache = cache
        self._progress = progress or Progress()
        self._top: DirState | None = None
        self._walk: Walk | None = None  # of the full scan that was begun last
        self.full_scan_s = 0.0  # what the last full scan took
        # Of large files that have changed: by what they hold now, what they held before.
        self.earlier: dict[Digest, Digest] = {}

    def scan(self, ahead: Ahead | None = None) -> Scan:
        """Looks at everything; `ahead` gets what has to be read. Raises RootGone."""
        started = time.perf_counter()
        old = self._top
        saved = NOTHING_SAVED if old is not None else self._cache.load()
        self._progress.scanned_files = 0
        walk = self._walk = Walk(self._prefix, saved, progress=self._progress, ahead=ahead)
        with uncollected():
            top = self._look_at_root(walk, old, deep=True)
        scan = self._finish(walk, top, held_before=len(saved) > 0)
        self.full_scan_s = time.perf_counter() - started
        return scan

    def judge_by(self, ignore: Ignore) -> None:
        """From the next look at everything on. No scan is under way."""
        self._ignore = ignore

    def abandon(self) -> None:
        """Nobody waits for a full scan that is under way: it soon raises Abandoned. Safe on
        another thread."""
        if self._walk is not None:
            self._walk.is_abandoned = True

    def rescan(self, dirs: Iterable[bytes], *, limit_bytes: int | None = None) -> Scan:
        """Looks at these directories (relative; b"" is the root) and at new ones below them.

        The cost is that of the directories named, not of the project. Another mode of a directory
        is seen when it is itself named, or one above it is another one than before. A directory
        that is not known leads to a look at the one above it; one whose ignore files changed, to a
        full look below it. Raises RootGone.

        With `limit_bytes` it raises TooMuch, and changes nothing, rather than hash more than so
        much or enter a directory that is new.
        """
        if self._top is None:
            if limit_bytes is not None:
                raise TooMuch
            return self.scan()
        wanted = _Wanted()
        for path in dirs:
            wanted.add(path)
        walk = Walk(self._prefix, NOTHING_SAVED, limit_bytes=limit_bytes)
        top = self._refresh(walk, b"", self._top, wanted, 0)
        if top is None:
            top = self._look_at_root(walk, self._top, deep=True)
        return self._finish(walk, top, held_before=False)

    def save(self) -> None:
        """Writes the stat cache. Safe on another thread while scans go on. Raises OSError."""
        if self._top is not None:
            self._cache.save(_rows(self._top, b""))

    def directories(self) -> Iterator[bytes]:
        """Every directory that is not ignored; the root, b"", first. Safe on another thread."""
        if self._top is not None:
            yield b""
            yield from _directories(self._top, b"")

    def concerns(self, path: bytes, is_dir: bool | None = None) -> bool:
        """Whether something that happened at `path` can change the tree. Safe on another thread.

        True for what is not known yet, and for what would count as a file or as a folder when
        `is_dir` does not say which it is.
        """
        at = self._top
        if at is None or not path:
            return True
        *above, name = path.split(b"/")
        for component in above:
            below = at.dirs.get(component)
            if below is None:
                if component in at.environments:
                    return False
                return not at.level.ignored(component, True)
            at = below
        if is_dir is not None:
            return not at.level.ignored(name, is_dir)
        if name in at.node.entries:
            return True
        return not (at.level.ignored(name, False) and at.level.ignored(name, True))

    def holds(self, path: bytes) -> bool:
        """Whether the last scan found something at `path`. Safe on another thread."""
        at = self._top
        *above, name = path.split(b"/")
        for component in above:
            at = at.dirs.get(component) if at is not None else None
        return at is not None and name in at.node.entries

    def _look_at_root(self, walk: Walk, old: DirState | None, *, deep: bool) -> DirState:
        try:
            found = self._root.stat()
            return walk.look(b"", found, old, self._ignore.top(), deep=deep)
        except OSError as error:
            raise RootGone(self._root, error.strerror or str(error)) from error

    def _finish(self, walk: Walk, top: DirState, *, held_before: bool) -> Scan:
        before = self._top.node if self._top is not None else None
        held_before = held_before or (before is not None and bool(before.entries))
        self._top = top
        self.earlier |= walk.earlier
        problems = tuple(
            Problem(Path(os.fsdecode(path)), reason) for path, reason in walk.new_problems
        )
        return Scan(top.node, before, problems, emptied=held_before and not top.node.entries)

    def _refresh(
        self, walk: Walk, path: bytes, old: DirState, wanted: _Wanted, depth: int
    ) -> DirState | None:
        """None when the directory is no longer one, or cannot be listed."""
        here = wanted.here
        updated: dict[bytes, DirState] = {}
        lost: set[bytes] = set()
        for name, below in wanted.below.items():
            child = old.dirs.get(name)
            if child is None:
                here = True
                continue
            new = self._refresh(walk, path + name + b"/", child, below, depth + 1)
            if new is None:
                lost.add(name)
            elif new is not child:
                updated[name] = new
        state = old.with_dirs(updated) if updated else old
        if not here and not lost:
            return state
        return self._look_again(walk, path, state.without(lost), depth)

    def _look_again(self, walk: Walk, path: bytes, old: DirState, depth: int) -> DirState | None:
        full = self._prefix + path
        try:
            found = os.lstat(full[:-1]) if path else os.stat(full)
            if not is_dir_stat(found):
                return None
            # Another directory under the same name: what was known below it says nothing.
            deep = Ident.of(found) != old.ident
            return walk.look(path, found, old, old.outer_level, deep=deep, depth=depth)
        except (OSError, Environment):
            return None


def _directories(state: DirState, prefix: bytes) -> Iterator[bytes]:
    for name, below in state.dirs.items():
        path = prefix + name
        yield path
        yield from _directories(below, path + b"/")


def _rows(state: DirState, prefix: bytes) -> Iterator[Row]:
    for name, known in state.files.items():
        if known.inode >= 0:
            entry = known.entry
            yield Row(
                prefix + name,
                entry.size_bytes,
                entry.mtime_ns,
                known.ctime_ns,
                known.inode,
                entry.digest,
            )
    for name, below in state.dirs.items():
        yield from _rows(below, prefix + name + b"/")
