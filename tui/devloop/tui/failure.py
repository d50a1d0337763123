"""What a run's last words say of its failure: the exception, the line that raised, out of memory.

Keeps a bounded tail of each stream; reads no log. Judges which words explain the end; how a
traceback looks is known by `tracebacks.py`. Knows no screen.
"""

from __future__ import annotations

import re
from signal import SIGINT
from typing import NamedTuple

from .tracebacks import LONGEST_LINE, Place, Raised, last_raised

__all__ = ["Output", "Place", "Words", "explained", "in_project", "says_out_of_memory"]

TAIL_BYTES = 16 << 10
# After an exception that nobody has caught, only clean-up talks; it may be a page.
MOST_AFTER_UNCAUGHT = 30
# Who ends with a status of its own says why just before.
MOST_AFTER_HANDLED = 5

_SGR = re.compile(r"\x1b\[[0-9;:]*m")
_OOM = re.compile(
    r"out of memory|OutOfMemoryError|^MemoryError|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE
)
_BAR = re.compile(r"\d%\||\bit/s\b|\bs/it\b")
_WORKSPACE = re.compile(r"^(/.*/workspaces/[^/]+/files|/workspace)/")


class Words(NamedTuple):
    """Why a run failed, as far as it has said so."""

    exception: str = ""  # the line that names it; empty: none explains the end
    place: Place | None = None
    last: str = ""  # without an exception: the last line on stderr


class Output:
    """The end of a run's output, each stream by itself: they meet in the middle of lines."""

    def __init__(self) -> None:
        self.stdout = _Tail()
        self.stderr = _Tail()
        self.lines_since_stderr = 0

    def add(self, data: bytes, *, is_stderr: bool) -> None:
        (self.stderr if is_stderr else self.stdout).add(data)
        self.lines_since_stderr = 0 if is_stderr else self.lines_since_stderr + data.count(b"\n")


class _Tail:
    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        self._data += data[-TAIL_BYTES:]
        if len(self._data) > 2 * TAIL_BYTES:
            del self._data[:-TAIL_BYTES]

    def lines(self) -> list[str]:
        """As a terminal would have left them: what was written over is gone."""
        text = _SGR.sub("", self._data[-TAIL_BYTES:].decode(errors="replace"))
        return [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]


def explained(output: Output, exit_code: int, signal: int, project: str) -> Words:
    """`project`: a part of the paths of the project's files."""
    is_uncaught = exit_code == 1 or signal == SIGINT or exit_code == 128 + SIGINT
    errors = output.stderr.lines()
    # What stdout held back comes after an uncaught exception, and says nothing of it.
    since = 0 if is_uncaught else output.lines_since_stderr
    for lines, later in ((errors, since), (output.stdout.lines(), 0)):
        raised = last_raised(lines)
        most = MOST_AFTER_UNCAUGHT if is_uncaught else MOST_AFTER_HANDLED
        if raised is not None and raised.lines_after + later <= most:
            return Words(raised.exception, _place(raised, project))
    return Words(last=_last_line(errors) if since <= MOST_AFTER_HANDLED else "")


def _place(raised: Raised, project: str) -> Place | None:
    """The innermost frame, one of the project's own before one of a library."""
    own = [frame for frame in raised.frames if is_own(frame.path, project)]
    return next(reversed(own or raised.frames), None)


def _last_line(lines: list[str]) -> str:
    """Bars of progress say nothing of a failure."""
    said = (line.strip() for line in reversed(lines))
    return next((line[:LONGEST_LINE] for line in said if line and not _BAR.search(line)), "")


def is_own(path: str, project: str) -> bool:
    if "site-packages" in path:
        return False
    return not project or project in path or in_project(path)[0] != "/"


def in_project(path: str) -> str:
    """A path of the box or of a container, as the project has it; another one as it is."""
    return _WORKSPACE.sub("", path)


def says_out_of_memory(exception: str) -> bool:
    return bool(_OOM.search(exception))
