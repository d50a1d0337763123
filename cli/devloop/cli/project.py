"""Which directory is the project, and which file configures it. Knows no key of that file.

The search goes upwards from the start, as git's does, and ends at a repository's top level; the
home directory and what is above it are looked at only when the search starts there.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TextIO

__all__ = [
    "CONFIG_FILES",
    "CONFIG_NAME",
    "ConfigFile",
    "Project",
    "check_root",
    "confirm_root",
    "find_config",
    "find_project",
    "find_start",
    "home_directory",
]

CONFIG_NAME = "devloop.toml"
_PYPROJECT_NAME = "pyproject.toml"
CONFIG_FILES = (CONFIG_NAME, _PYPROJECT_NAME)
_PYPROJECT_TABLE = ("tool", "devloop")
_SYNTAX_ERROR = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)


class ConfigFile(NamedTuple):
    """A parsed file that configures devloop."""

    path: Path
    text: str
    table: tuple[str, ...]  # the table that is devloop's; empty: all of the file
    values: Mapping[str, object]

    def where(self, key: tuple[str, ...]) -> str:
        """`file:line` of a key of devloop's table, relative to the current directory."""
        from .toml_lines import key_lines  # only the way to an error pays for it

        return f"{_shown(self.path)}:{key_lines(self.text)[(*self.table, *key)]}"


class Project(NamedTuple):
    root: Path
    file: ConfigFile | None


def find_start(start: str | os.PathLike[str] | None = None) -> Path:
    """`start` or the current directory, absolute and without symbolic links."""
    try:
        path = (Path.cwd() if start is None else Path(start)).resolve(strict=True)
    except FileNotFoundError:
        name = start if start is not None else "the current directory"
        raise ConfigError(
            f"{name} does not exist", hint="change to your project, or name it with -C DIR"
        ) from None
    except OSError as error:
        raise ConfigError(f"{start}: {error.strerror}") from None
    if not path.is_dir():
        raise ConfigError(f"{start} is not a directory", hint="name a directory with -C DIR")
    return path


def find_project(start: Path) -> Project:
    """The nearest configured directory; else the repository's top level; else `start`.

    Raises ConfigError for a file that does not parse, or two files that both configure devloop.
    """
    for directory in _search_path(start):
        file = find_config(directory)
        if file is not None:
            return Project(directory, file)
        if (directory / ".git").exists():
            return Project(directory, None)
    return Project(start, None)


def _search_path(start: Path) -> Iterator[Path]:
    yield start
    home = home_directory()
    for directory in start.parents:
        if home.is_relative_to(directory):  # "/" is above every home
            return
        yield directory


def home_directory() -> Path:
    """Falls back to the current directory where the system names none; Path.home() would raise."""
    return Path(os.path.expanduser("~")).resolve()


def find_config(directory: Path) -> ConfigFile | None:
    """The file in `directory` that configures devloop, if there is one."""
    own = _read_file(directory / CONFIG_NAME)
    shared = _read_pyproject(directory / _PYPROJECT_NAME)
    if own is not None and own.values and shared is not None and shared.values:
        raise ConfigError(
            f"both {_shown(own.path)} and [tool.devloop] in {_PYPROJECT_NAME} configure devloop",
            hint=f"keep one of them; {CONFIG_NAME} is the usual place",
        )
    return own if own is not None and (own.values or shared is None) else shared


def _read_file(path: Path) -> ConfigFile | None:
    text = _read_text(path)
    return ConfigFile(path, text, (), _parse(path, text)) if text is not None else None


def _read_pyproject(path: Path) -> ConfigFile | None:
    """None unless it has devloop's table: a broken file of somebody else is not our concern."""
    text = _read_text(path)
    if text is None or "devloop" not in text:
        return None
    table: object = _parse(path, text)
    for name in _PYPROJECT_TABLE:
        table = table.get(name) if isinstance(table, dict) else None
    if table is None:
        return None
    file = ConfigFile(path, text, _PYPROJECT_TABLE, table if isinstance(table, dict) else {})
    if not isinstance(table, dict):
        raise ConfigError(f"{file.where(())}: tool.devloop must be a table", hint="[tool.devloop]")
    return file


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{_shown(path)}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{_shown(path)}: not UTF-8 at byte {error.start}", hint="save it as UTF-8"
        ) from None


def _parse(path: Path, text: str) -> Mapping[str, object]:
    import tomllib  # a project without a config file does not pay for it

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(path, text, str(error)) from None
    except RecursionError:
        raise ConfigError(f"{_shown(path)}: nested too deeply") from None


def _syntax_error(path: Path, text: str, message: str) -> ConfigError:
    """Shows nothing of the line itself: it may hold a secret."""
    match = _SYNTAX_ERROR.fullmatch(message)
    if match is None:  # "(at end of document)"
        lines = text.split("\n")
        place, reason = f"{len(lines)}:{len(lines[-1]) + 1}", message.partition(" (at ")[0]
    else:
        place, reason = f"{match[2]}:{match[3]}", match[1]
    return ConfigError(f"{_shown(path)}:{place}: {reason}", hint="correct the TOML at that place")


def _shown(path: Path) -> str:
    return os.path.relpath(path)


def check_root(root: Path) -> None:
    """Raises ConfigError for a root that must not be synced, unless somebody confirms it."""
    if not confirm_root(root, sys.stdin, sys.stderr):
        raise ConfigError(
            f"{_danger(root)} is not a project: all of {root} would be synced",
            hint="change to your project, or name it with -C DIR",
        )


def confirm_root(root: Path, answers: TextIO, questions: TextIO) -> bool:
    """Whether `root` may be synced. Asks about `/` and the home directory where both ends of the
    talk are terminals, and refuses them elsewhere."""
    danger = _danger(root)
    if not danger:
        return True
    if not (answers.isatty() and questions.isatty()):
        return False
    questions.write(f"The project root is {danger} ({root}). Sync all of it? [y/N] ")
    questions.flush()
    return answers.readline().strip().lower() in ("y", "yes")


def _danger(root: Path) -> str:
    if root.parent == root:
        return "the file system's root"
    home = home_directory()
    if root == home:
        return "the home directory"
    return "a parent of the home directory" if home.is_relative_to(root) else ""
