"""What stays on the laptop: which names of a directory are ignored.

Owns the layers and their order; `devloop.cafs.patterns` reads one list of patterns. The first
layer with a word about a path decides:

    always out      `.git`, bytecode, editors' temporary files, devloop's own; nothing overrides it
    sync.outputs    what runs create and sync brings back; nothing overrides it
    sync.ignore     patterns of the config, relative to the project
    .devloopignore  the deepest file first
    .gitignore      the deepest file first, up to the top of the git work tree
    info/exclude    of the repository that the project lies in

The user's global git excludes are not read: they describe a person, and a project must mean the
same on two laptops. `.gitignore` counts without a repository, too. Names are compared byte for
byte, also where git itself would fold case (`core.ignorecase`).

As in git, what is below an ignored directory cannot be taken back in: it is never looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.patterns import Patterns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["IGNORE_FILES", "TEMP_PREFIX", "Ignore", "Level", "Repository", "find_repository"]

IGNORE_FILES = (b".devloopignore", b".gitignore")
TEMP_PREFIX = ".devloop-tmp-"  # names of files that sync itself is still writing

_ALWAYS = Patterns(
    (
        ".git",
        ".devloop",
        TEMP_PREFIX + "*",
        "__pycache__",
        "*.pyc",
        "*.pyo",
        ".DS_Store",
        ".*.sw?",  # vim
        "4913",
        "*~",
        ".#*",  # emacs
        r"\#*#",
        "*___jb_tmp___",  # JetBrains
        "*___jb_old___",
        "*.vsctmp",  # VS Code
        ".goutputstream-*",  # GIO: gedit, GNOME Text Editor
        "*.kate-swp",
        ".~lock.*#",
    )
)
_MAX_BYTES = 16 << 20  # an ignore file larger than this is not one


class _Layer(NamedTuple):
    patterns: Patterns
    prefix: bytes  # of the current directory, as the patterns see it: b"" or b"a/b/"


class Level:
    """The layers as one directory sees them. Immutable."""

    __slots__ = ("_always", "_config", "_devloop", "_git", "_order")

    def __init__(
        self,
        always: tuple[_Layer, ...],
        config: tuple[_Layer, ...],
        devloop: tuple[_Layer, ...],
        git: tuple[_Layer, ...],
    ) -> None:
        self._always = always
        self._config = config
        self._devloop = devloop
        self._git = git
        self._order = config + devloop + git

    def ignored(self, name: bytes, is_dir: bool) -> bool:
        """Whether the entry `name` of this directory stays out."""
        for patterns, prefix in self._always:
            if patterns.decide_name(name, prefix + name, is_dir):
                return True
        for patterns, prefix in self._order:
            verdict = patterns.decide_name(name, prefix + name, is_dir)
            if verdict is not None:
                return verdict
        return False

    def ignored_link(self, name: bytes) -> bool:
        """Whether the symbolic link `name` stays out.

        A link where outputs are (`ckpt -> /big/disk`, and `ckpt/` is one) is like the directory:
        synced, it would take the place of what runs wrote on the box.
        """
        for patterns, prefix in self._always:
            if patterns.decide_name(name, prefix + name, True):
                return True
        return self.ignored(name, False)

    def child(self, name: bytes) -> Level:
        """The same layers seen from the subdirectory `name`."""
        return Level(
            _moved(self._always, name),
            _moved(self._config, name),
            _moved(self._devloop, name),
            _moved(self._git, name),
        )

    def with_files(self, devloopignore: bytes, gitignore: bytes) -> Level:
        """With the ignore files that lie in this directory; b"" for one that does not."""
        if not devloopignore and not gitignore:
            return self
        return Level(
            self._always,
            self._config,
            _layers(devloopignore) + self._devloop,
            _layers(gitignore) + self._git,
        )


def _moved(layers: tuple[_Layer, ...], name: bytes) -> tuple[_Layer, ...]:
    return tuple(_Layer(patterns, prefix + name + b"/") for patterns, prefix in layers)


def _layers(data: bytes, prefix: bytes = b"") -> tuple[_Layer, ...]:
    patterns = Patterns.from_file(data)
    return (_Layer(patterns, prefix),) if len(patterns) else ()


def _own_layers(lines: Sequence[str]) -> tuple[_Layer, ...]:
    patterns = Patterns(lines)
    return (_Layer(patterns, b""),) if len(patterns) else ()


class Ignore:
    """The layers of one project that do not lie inside it, and the level of its root."""

    def __init__(
        self,
        root: Path,
        *,
        ignore: Sequence[str] = (),
        outputs: Sequence[str] = (),
    ) -> None:
        self._root = root
        self._always = (_Layer(_ALWAYS, b""), *_own_layers(outputs))
        self._config = _own_layers(ignore)
        self._seen: tuple[_OuterFile, ...] | None = None
        self._top = Level(self._always, self._config, (), ())

    def top(self) -> Level:
        """The level of the root, without the ignore files in it.

        The same object as long as the files outside the project say the same.
        """
        outer = _outer_files(self._root)
        if outer != self._seen:
            git = tuple(layer for file in outer for layer in _layers(file.data, file.prefix))
            self._top = Level(self._always, self._config, (), git)
            self._seen = outer
        return self._top


class _OuterFile(NamedTuple):
    prefix: bytes  # of the project's root, as the patterns in the file see it
    data: bytes


def _outer_files(root: Path) -> tuple[_OuterFile, ...]:
    """Ignore files above the root, the deepest first, then info/exclude."""
    repository = find_repository(root)
    if repository is None:
        return ()
    relative = root.resolve().relative_to(repository.work_tree).parts
    found: list[_OuterFile] = []
    for depth in range(len(relative) - 1, -1, -1):
        above = repository.work_tree.joinpath(*relative[:depth], ".gitignore")
        found.append(_OuterFile(_prefix(relative[depth:]), _read(above)))
    found.append(_OuterFile(_prefix(relative), _read(repository.common_dir / "info" / "exclude")))
    return tuple(found)


def _prefix(parts: tuple[str, ...]) -> bytes:
    return b"".join(part.encode("utf-8", "surrogateescape") + b"/" for part in parts)


def _read(path: Path) -> bytes:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return b""
        return path.read_bytes()
    except OSError:
        return b""


class Repository(NamedTuple):
    work_tree: Path
    git_dir: Path  # where `index.lock` appears
    common_dir: Path  # differs from git_dir in a linked work tree


def find_repository(root: Path) -> Repository | None:
    """The git work tree that `root` lies in. Reads a few small files, runs nothing."""
    resolved = root.resolve()
    for folder in (resolved, *resolved.parents):
        git_dir = _git_dir(folder / ".git")
        if git_dir is not None:
            return Repository(folder, git_dir, _common_dir(git_dir))
    return None


def _git_dir(dot_git: Path) -> Path | None:
    if dot_git.is_dir():
        return dot_git if (dot_git / "HEAD").exists() else None
    text = _read(dot_git).decode("utf-8", "surrogateescape")
    if not text.startswith("gitdir: "):
        return None
    return dot_git.parent / text.removeprefix("gitdir: ").rstrip("\r\n")


def _common_dir(git_dir: Path) -> Path:
    text = _read(git_dir / "commondir").decode("utf-8", "surrogateescape").rstrip("\r\n")
    return git_dir / text if text else git_dir
