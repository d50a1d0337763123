"""Looking at directories: what is in one, what was known of it, what has to be read.

Owns the memory of a directory (`DirState`) and the look that makes a new one. Refuses to know
which directories ought to be looked at, and why.

A `DirState` is immutable once made: whoever holds one on another thread holds one moment.
"""

from __future__ import annotations

import os
import stat
from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.chunk import MIN_CHUNKED_BYTES
from devloop.cafs.tree import (
    MAX_DEPTH,
    MAX_PATH_BYTES,
    MAX_TARGET_BYTES,
    Dir,
    Entry,
    File,
    Node,
    Symlink,
)

from .hashing import read_digest
from .ignore import IGNORE_FILES
from .progress import Progress

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from devloop.cafs.digest import Digest

    from .ahead import Ahead
    from .ignore import Level
    from .statcache import Saved

__all__ = [
    "Abandoned",
    "DirState",
    "Environment",
    "Ident",
    "Known",
    "TooMuch",
    "Walk",
    "is_dir_stat",
]

_NAME = attrgetter("name")
_NEVER = -1  # as an inode: equal to no stat, so the file is read again at the next look
_MAX_IGNORE_BYTES = 16 << 20
_ENVIRONMENT_FILE = b"pyvenv.cfg"  # of `python -m venv`, virtualenv, uv
_ENVIRONMENT_DIR = b"conda-meta"


class Environment(Exception):
    """The directory holds a Python environment: it belongs to this machine and is never synced."""

    def __init__(self, ident: Ident) -> None:
        self.ident = ident


class TooMuch(Exception):
    """This look would take longer than its caller may wait."""


class Abandoned(Exception):
    """Nobody waits for this look any more."""


class Ident(NamedTuple):
    """Which directory it is, whatever its name."""

    device: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Ident:
        return cls(found.st_dev, found.st_ino)


class Known(NamedTuple):
    """A file as it was hashed; the rest of its stat is in `entry`."""

    entry: File
    ctime_ns: int
    inode: int


class DirState:
    """One directory as it was last looked at."""

    __slots__ = (
        "dirs",
        "environments",
        "files",
        "ident",
        "ignored",
        "level",
        "mode",
        "node",
        "outer_level",
        "problems",
        "rule_texts",
    )

    def __init__(self, ident: Ident, mode: int, outer_level: Level, level: Level) -> None:
        self.ident = ident
        self.mode = mode  # as it was when it was looked at itself
        self.outer_level = outer_level  # of the directory above; `level` was made from it
        self.level = level
        self.rule_texts: tuple[bytes, ...] = ()
        self.files: dict[bytes, Known] = {}
        self.dirs: dict[bytes, DirState] = {}
        self.ignored: dict[bytes, _Kind] = {}
        self.environments: dict[bytes, Ident] = {}
        self.problems: dict[bytes, str] = {}
        self.node: Node

    def with_dirs(self, updated: Mapping[bytes, DirState]) -> DirState:
        """The same directory with other states of some of its subdirectories."""
        new = self._copy()
        new.dirs = {**self.dirs, **updated}
        entries = dict(self.node.entries)
        for name, below in updated.items():
            entries[name] = Dir(below.mode, below.node.digest)
        new.node = _node(entries, new.dirs, self.node)
        return new

    def without(self, names: Collection[bytes]) -> DirState:
        """The memory with these subdirectories forgotten, to be looked at as if they were new."""
        if not names:
            return self
        new = self._copy()
        new.dirs = {name: below for name, below in self.dirs.items() if name not in names}
        new.node = self.node
        return new

    def _copy(self) -> DirState:
        new = DirState(self.ident, self.mode, self.outer_level, self.level)
        new.rule_texts, new.files = self.rule_texts, self.files
        new.ignored, new.problems = self.ignored, self.problems
        new.environments = self.environments
        return new


def _node(entries: dict[bytes, Entry], dirs: Mapping[bytes, DirState], old: Node | None) -> Node:
    """The node of these entries: the old one where it says the same."""
    if old is not None and old.entries == entries:
        return old
    return Node(entries, {name: state.node for name, state in dirs.items()})


class _Kind(Enum):
    """What a listing says of an entry, as far as the ignore rules care."""

    OTHER = 0
    DIR = 1
    LINK = 2

    @classmethod
    def of(cls, entry: os.DirEntry[bytes]) -> _Kind:
        if entry.is_dir(follow_symlinks=False):
            return cls.DIR
        return cls.LINK if entry.is_symlink() else cls.OTHER

    @classmethod
    def of_entry(cls, entry: Entry) -> _Kind:
        if isinstance(entry, Dir):
            return cls.DIR
        return cls.LINK if isinstance(entry, Symlink) else cls.OTHER


def is_dir_stat(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode)


class Walk:
    """Looks at directories below one root. Collects the problems that were not known before."""

    def __init__(
        self,
        prefix: bytes,
        saved: Saved,
        *,
        limit_bytes: int | None = None,
        progress: Progress | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        """With `limit_bytes`, a look at a new directory, or at more to hash, raises TooMuch.

        `ahead` gets what is read, and the nodes of the directories that it is below.
        """
        self.ahead = ahead
        self.prefix = prefix  # the root, with "/" at the end
        self.saved = saved
        self.progress = progress or Progress()
        self.is_abandoned = False  # set on another thread
        self._left_bytes = limit_bytes
        self.new_problems: list[tuple[bytes, str]] = []
        self.earlier: dict[Digest, Digest] = {}  # of large files that were read: what they held

    def look(
        self,
        path: bytes,
        at: os.stat_result,
        old: DirState | None,
        outer_level: Level,
        *,
        deep: bool,
        depth: int = 0,
    ) -> DirState:
        """The directory `path` (b"", or ending in "/") as it is now. Raises OSError, Environment.

        `at` is its stat. `deep`: every directory below it is looked at, too; otherwise only new
        ones are, and the mode of one that is known is taken from when it was looked at itself.
        """
        self._go_on()
        with os.scandir(self.prefix + path) as listing:
            found = sorted(listing, key=_NAME)
        if path and _is_environment(found):
            raise Environment(Ident.of(at))
        texts = self._rule_texts(path, found)
        level = _level(path, old, outer_level, texts)
        new = DirState(Ident.of(at), at.st_mode & 0o777, outer_level, level)
        new.rule_texts = texts
        deep = deep or old is None or level is not old.level
        if deep and self._left_bytes is not None:
            raise TooMuch
        look = _Look(self, path, old, new, deep, depth)
        if self.ahead is None:
            return look.at(found)
        seen = self.ahead.seen
        state = look.at(found)
        if self.ahead.seen != seen:
            self.ahead.node(state.node)
        return state

    def spend(self, size_bytes: int) -> None:
        """Before so much is hashed. Raises TooMuch."""
        self._go_on()
        if self._left_bytes is not None:
            self._left_bytes -= size_bytes
            if self._left_bytes < 0:
                raise TooMuch

    def _go_on(self) -> None:
        if self.is_abandoned:
            raise Abandoned

    def _rule_texts(self, path: bytes, found: list[os.DirEntry[bytes]]) -> tuple[bytes, ...]:
        names = {
            entry.name
            for entry in found
            if entry.name in IGNORE_FILES and entry.is_file(follow_symlinks=False)
        }
        return tuple(
            _read_start(self.prefix + path + name) if name in names else b""
            for name in IGNORE_FILES
        )

    def problem(self, path: bytes, reason: str, *, known: bool) -> None:
        if not known:
            self.new_problems.append((path, reason))


def _is_environment(found: list[os.DirEntry[bytes]]) -> bool:
    return any(
        (entry.name == _ENVIRONMENT_FILE and entry.is_file(follow_symlinks=False))
        or (entry.name == _ENVIRONMENT_DIR and entry.is_dir(follow_symlinks=False))
        for entry in found
    )


def _read_start(path: bytes) -> bytes:
    """An ignore file's bytes; one that cannot be read ignores nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as file:
        return file.read(_MAX_IGNORE_BYTES)


def _level(path: bytes, old: DirState | None, outer: Level, texts: tuple[bytes, ...]) -> Level:
    """The level of a directory: the very same object as long as the rules are the same."""
    if old is not None and old.outer_level is outer and old.rule_texts == texts:
        return old.level
    own = outer.child(path[path.rfind(b"/", 0, -1) + 1 : -1]) if path else outer
    return own.with_files(*texts)


def _is_ignored(level: Level, name: bytes, kind: _Kind) -> bool:
    if kind is _Kind.LINK:
        return level.ignored_link(name)
    return level.ignored(name, kind is _Kind.DIR)


class _Look:
    """One look at one directory."""

    def __init__(
        self, walk: Walk, path: bytes, old: DirState | None, new: DirState, deep: bool, depth: int
    ) -> None:
        self._walk = walk
        self._path = path
        self._old = old
        self._new = new
        self._deep = deep
        self._depth = depth
        self._entries: dict[bytes, Entry] = {}
        self._old_files = old.files if old is not None else {}
        self._old_dirs = old.dirs if old is not None else {}
        self._old_problems = old.problems if old is not None else {}
        self._old_environments = old.environments if old is not None else {}

    def at(self, found: list[os.DirEntry[bytes]]) -> DirState:
        for entry in self._kept(self._carry_over(found)):
            if entry.is_file(follow_symlinks=False):
                self._file(entry)
            elif entry.is_dir(follow_symlinks=False):
                self._dir(entry)
            elif entry.is_symlink():
                self._link(entry)
            else:
                self._problem(entry.name, "not a file, folder or link")
        new = self._new
        new.node = _node(self._entries, new.dirs, self._old.node if self._old else None)
        return new

    def _carry_over(self, found: list[os.DirEntry[bytes]]) -> Iterator[os.DirEntry[bytes]]:
        """Takes the known directories as they are, by what the listing says; yields the rest.

        Stats of 500 of them, and new entries for them, were half of a save's scan of 8.8 ms.
        """
        if self._deep or self._old is None:
            yield from found
            return
        known, entries, dirs = self._old_dirs, self._old.node.entries, self._new.dirs
        for entry in found:
            name = entry.name
            state = known.get(name)
            if (
                state is None
                or state.ident.inode != entry.inode()
                or not entry.is_dir(follow_symlinks=False)
            ):
                yield entry
            else:
                dirs[name] = state
                self._entries[name] = entries[name]

    def _kept(self, found: Iterable[os.DirEntry[bytes]]) -> Iterator[os.DirEntry[bytes]]:
        """What is not ignored. Under unchanged rules, old names are not judged again."""
        old, new = self._old, self._new
        same_rules = old is not None and old.level is new.level
        kept_before = old.node.entries if old is not None and same_rules else {}
        ignored_before = old.ignored if old is not None and same_rules else {}
        for entry in found:
            name, kind = entry.name, _Kind.of(entry)
            was = kept_before.get(name)
            if was is not None and _Kind.of_entry(was) is kind:
                yield entry
            elif ignored_before.get(name) is kind or _is_ignored(new.level, name, kind):
                new.ignored[name] = kind
            else:
                yield entry

    def _file(self, entry: os.DirEntry[bytes]) -> None:
        name = entry.name
        self._walk.progress.scanned_files += 1
        try:
            found = entry.stat(follow_symlinks=False)
            known = self._old_files.get(name)
            if (
                known is None
                or known.ctime_ns != found.st_ctime_ns
                or known.inode != found.st_ino
                or known.entry.mtime_ns != found.st_mtime_ns
                or known.entry.size_bytes != found.st_size
            ):
                known = self._known_by_cache(name, found) or self._read(name, found)
        except FileNotFoundError:
            return
        except OSError as error:
            self._problem(name, error.strerror or str(error))
            return
        self._new.files[name] = known
        self._entries[name] = known.entry

    def _known_by_cache(self, name: bytes, found: os.stat_result) -> Known | None:
        saved = self._walk.saved
        size_bytes, mtime_ns, ctime_ns = found.st_size, found.st_mtime_ns, found.st_ctime_ns
        digest = saved.digest(self._path + name, size_bytes, mtime_ns, ctime_ns, found.st_ino)
        if digest is None:
            return None
        return Known(
            File(found.st_mode & 0o777, size_bytes, mtime_ns, digest), ctime_ns, found.st_ino
        )

    def _read(self, name: bytes, found: os.stat_result) -> Known:
        if len(self._path) + len(name) > MAX_PATH_BYTES:
            raise OSError(f"path is longer than {MAX_PATH_BYTES} bytes")
        self._walk.spend(found.st_size)
        reading = read_digest(self._walk.prefix + self._path + name)
        entry = File(reading.mode, reading.size_bytes, reading.mtime_ns, reading.digest)
        if entry.size_bytes >= MIN_CHUNKED_BYTES:
            self._note_earlier(name, entry.digest)
        if self._walk.ahead is not None:
            self._walk.ahead.file(self._path[:-1], name, entry, reading.data)
        return Known(entry, reading.ctime_ns, reading.inode if reading.certain else _NEVER)

    def _note_earlier(self, name: bytes, digest: Digest) -> None:
        known = self._old_files.get(name)
        last = self._walk.saved.last_digest(self._path + name)
        before = known.entry.digest if known is not None else last
        if before is not None:
            self._walk.earlier[digest] = before

    def _dir(self, entry: os.DirEntry[bytes]) -> None:
        name = entry.name
        try:
            state = self._state_below(name, entry)
        except Environment as environment:
            self._new.environments[name] = environment.ident
            return
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._problem(name, error.strerror or str(error))
            return
        self._new.dirs[name] = state
        self._entries[name] = Dir(state.mode, state.node.digest)

    def _state_below(self, name: bytes, entry: os.DirEntry[bytes]) -> DirState:
        found = entry.stat(follow_symlinks=False)
        known = self._old_dirs.get(name)
        if known is not None and not self._deep and known.ident == Ident.of(found):
            return known  # a mount, which the listing names by what lies below it
        if not self._deep and self._old_environments.get(name) == Ident.of(found):
            raise Environment(Ident.of(found))
        if self._depth + 1 > MAX_DEPTH:
            raise OSError(f"deeper than {MAX_DEPTH} folders")
        path = self._path + name + b"/"
        level = self._new.level
        return self._walk.look(path, found, known, level, deep=True, depth=self._depth + 1)

    def _link(self, entry: os.DirEntry[bytes]) -> None:
        try:
            target = os.readlink(entry.path)
        except FileNotFoundError:
            return
        except OSError as error:
            self._problem(entry.name, error.strerror or str(error))
            return
        if 0 < len(target) <= MAX_TARGET_BYTES:
            self._entries[entry.name] = Symlink(target)
        else:
            self._problem(entry.name, f"link target is longer than {MAX_TARGET_BYTES} bytes")

    def _problem(self, name: bytes, reason: str) -> None:
        self._new.problems[name] = reason
        self._walk.problem(self._path + name, reason, known=name in self._old_problems)
