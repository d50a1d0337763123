"""What a run's last words say of its failure: the exception, the line that raised, out of memory.

Keeps a bounded tail of the output; reads no log. Knows how Python and CUDA say such things, and
no screen.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Place", "Tail", "in_project", "is_out_of_memory", "last_exception", "raised_at"]

TAIL_BYTES = 16 << 10
LONGEST_LINE = 400

_SGR = re.compile(r"\x1b\[[0-9;:]*m")
# As the interpreter prints an exception: a dotted name, and what it says of itself.
_EXCEPTION = re.compile(
    r"^(?P<name>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning|Failure|Timeout)"
    r"|[A-Za-z_][\w.]*(?=: ))(?P<words>:.*)?$"
)
_FRAME = re.compile(r'^\s*File "(?P<path>[^"<][^"]*)", line (?P<line>\d+)')
_OOM = re.compile(r"out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE)
_WORKSPACE = re.compile(r"^(/.*/workspaces/[^/]+/files|/workspace)/")
_TRACEBACK = "Traceback (most recent call last):"
_SIGKILL = 9


class Place(NamedTuple):
    path: str  # as the traceback has it: a path of the box
    line: int


class Tail:
    """The end of a run's output, as it was written."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        self._data += data[-TAIL_BYTES:]
        if len(self._data) > 2 * TAIL_BYTES:
            del self._data[:-TAIL_BYTES]

    def lines(self) -> list[str]:
        text = _SGR.sub("", self._data[-TAIL_BYTES:].decode(errors="replace"))
        return [line.rstrip("\r") for line in text.split("\n")]


def last_exception(lines: list[str]) -> str:
    """The line that names the exception of the last traceback; empty: there is none."""
    start = _last_traceback(lines)
    if start is None:
        return ""
    for line in reversed(lines[start:]):
        if _EXCEPTION.match(line):
            return line[:LONGEST_LINE]
    return ""


def raised_at(lines: list[str], project: str = "") -> Place | None:
    """Where the last traceback was raised: its innermost frame, one of the project's own before
    one of a library. `project`: a part of the paths of the project's files."""
    start = _last_traceback(lines)
    if start is None:
        return None
    frames = [m for line in lines[start:] if (m := _FRAME.match(line)) is not None]
    own = [m for m in frames if is_own(m["path"], project)]
    best = (own or frames)[-1:]
    return Place(best[0]["path"], int(best[0]["line"])) if best else None


def is_own(path: str, project: str) -> bool:
    if "site-packages" in path:
        return False
    return not project or project in path or in_project(path)[0] != "/"


def in_project(path: str) -> str:
    """A path of the box or of a container, as the project has it; another one as it is."""
    return _WORKSPACE.sub("", path)


def _last_traceback(lines: list[str]) -> int | None:
    for at in range(len(lines) - 1, -1, -1):
        if lines[at].lstrip(" |+-").startswith(_TRACEBACK):
            return at
    return None


def is_out_of_memory(lines: list[str], exit_code: int, signal: int, reason: str) -> bool:
    """Said by the program, by the kernel, or by an exit status that nothing else explains."""
    if _OOM.search(reason) or any(_OOM.search(line) for line in lines[-200:]):
        return True
    is_asked_for = bool(reason) and "killed by" not in reason and "exited" not in reason
    return (signal == _SIGKILL or exit_code == 128 + _SIGKILL) and not is_asked_for
