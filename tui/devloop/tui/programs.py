"""Which program opens what, and which file here a path of the box is.

Editors at a line, pagers on a log, Python under its debugger.

Pure but for a look at what files there are.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["debugger_words", "editor_argv", "held_argv", "local_path", "pager_argv"]

_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")  # flags of Python that take the next word


def local_path(root: Path, path: str) -> Path | None:
    """The project's file that a run calls `path`: the longest end of it that is there."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    for start in range(len(parts)):
        candidate = root.joinpath(*parts[start:])
        if candidate.is_file():
            return candidate
    return None


def editor_argv(environ: Mapping[str, str], path: Path, line: int) -> list[str]:
    editor = environ.get("VISUAL") or environ.get("EDITOR") or "vi"
    words = shlex.split(editor) or ["vi"]
    if os.path.basename(words[0]) in ("code", "codium", "cursor"):
        return [*words, "--goto", f"{path}:{line}"]
    return [*words, f"+{line}", str(path)]


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


def held_argv(command: Sequence[str]) -> list[str]:
    """Runs the command; where devloop itself has failed, its words stay until Enter is pressed."""
    held = '"$@"; code=$?; [ $code -ne 255 ] || { printf "Enter comes back "; read -r _; }'
    return ["sh", "-c", held, "sh", *command]


def pager_argv(command: Sequence[str]) -> list[str]:
    """Shows what the command prints in $PAGER."""
    return ["sh", "-c", '"$@" 2>&1 | ${PAGER:-less -R}', "sh", *command]
