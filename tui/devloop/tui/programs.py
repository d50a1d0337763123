"""Which program opens what, and which file here a path of the box is.

Editors at a line, pagers on a log.

Pure but for a look at what files there are.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["editor_argv", "local_path", "pager_argv"]


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


def pager_argv(command: Sequence[str]) -> list[str]:
    """Shows what the command prints in $PAGER."""
    return ["sh", "-c", '"$@" 2>&1 | ${PAGER:-less -R}', "sh", *command]
