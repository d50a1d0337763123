"""Which program opens what, and which file here a path of the box is.

Editors at a line, pagers on a log, Python under its debugger.

Pure but for a look at what files there are.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Program", "debugger_words", "editor", "local_path", "pager", "verb"]

_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")  # flags of Python that take the next word
DEVLOOP_FAILED = 255
NOT_STARTED = (126, 127)


class Program(NamedTuple):
    """`fed_by`: the command whose output it is given. `held_codes`: when it ends with one of them,
    its words stay until Enter is pressed."""

    argv: Sequence[str]
    fed_by: Sequence[str] = ()
    held_codes: tuple[int, ...] = ()


def local_path(root: Path, path: str) -> Path | None:
    """The project's file that a run calls `path`: the longest end of it that is there."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    for start in range(len(parts)):
        candidate = root.joinpath(*parts[start:])
        if candidate.is_file():
            return candidate
    return None


def editor(environ: Mapping[str, str], path: Path, line: int) -> Program:
    words = shlex.split(environ.get("VISUAL") or environ.get("EDITOR") or "") or ["vi"]
    if os.path.basename(words[0]) in ("code", "codium", "cursor"):
        return Program([*words, "--goto", f"{path}:{line}"])
    return Program([*words, f"+{line}", str(path)])


def debugger_words(command: str) -> list[str] | None:
    """The command under pdb, which waits where an exception is raised, or at `breakpoint()`.

    None: it is no Python program.
    """
    words = shlex.split(command)
    if not words or not os.path.basename(words[0]).startswith("python"):
        return None
    at = 1
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-m", "-c", "-"):
        at += 2 if words[at] in _WITH_VALUE else 1
    if at >= len(words) or words[at] in ("-c", "-"):
        return None
    return [*words[:at], "-m", "pdb", "-c", "continue", *words[at:]]


def verb(command: Sequence[str]) -> Program:
    return Program(command, held_codes=(DEVLOOP_FAILED,))


def pager(command: Sequence[str]) -> Program:
    """Shows what the command prints in $PAGER."""
    return Program(("sh", "-c", "exec ${PAGER:-less -R}"), command, NOT_STARTED)
