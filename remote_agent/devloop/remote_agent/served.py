"""What the file server of an image has to say to people, as lines for the logs of runs.

Knows the words of `cafs.fuse.events`. Refuses to know which runs read from which server.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .run import Run

__all__ = ["Served", "line_of"]

SHORT_DIGITS = 12
_MOST_LINES = 1000  # of a run; who hears more is told what he knows once more


class Served:
    """Tells each run a line once: readers try again, and a dead tier fails all of them."""

    def __init__(self) -> None:
        self._told: WeakKeyDictionary[Run, set[str]] = WeakKeyDictionary()

    def tell(self, event: str, runs: Callable[[], Iterable[Run]]) -> None:
        """`runs`: those that read from it; asked where there is something to say."""
        line = line_of(event)
        if line is None:
            return
        for run in runs():
            told = self._told.setdefault(run, set())
            if line not in told:
                run.say(line)
                if len(told) < _MOST_LINES:
                    told.add(line)


def line_of(event: str) -> str | None:
    """A line without its end; None for what is no trouble. `event`: one JSON object."""
    told: dict[str, Any] = json.loads(event)
    match told:
        case {"event": "failed", "digest": digest, "file": file, "reason": reason}:
            blob = f"blob {digest[:SHORT_DIGITS]} of the image"
            return f"/{file.lstrip('/')} cannot be read ({blob}): {reason}"
        case {"event": "tier", "tier": tier, "reason": reason, "digest": str(digest)}:
            return f"{tier}: {reason} (blob {digest[:SHORT_DIGITS]} of the image)"
        case {"event": "tier", "tier": tier, "reason": reason}:
            return f"{tier}: {reason}"
        case _:
            return None
