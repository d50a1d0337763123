"""Finding lines: a pattern as the user types it, and which lines of a store it matches.

The lines are gone through block by block, newest first, by whoever calls `step`: a block takes
about a millisecond, so an event loop stays free between them. What was found in a full block stays
true until the block is dropped; the last blocks may be rewritten and are looked at again.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from .sgr import plain
from .store import BLOCK_LINES

if TYPE_CHECKING:
    from .store import Store

__all__ = ["ERRORS", "Matches", "Pattern"]


class Pattern(NamedTuple):
    """A regular expression, or plain text where it is none (`is_text`). `inverts`: what does not
    match."""

    regex: re.Pattern[str]
    inverts: bool
    source: str
    is_text: bool = False

    @classmethod
    def of(cls, source: str) -> Pattern:
        """As typed: a leading `!` inverts (`\\!` for the character); a capital makes case count."""
        inverts = source.startswith("!")
        words = source[1:].lstrip() if inverts else source
        words = words[1:] if words.startswith("\\!") else words
        # A capital within an escape such as \S or \D is none that was meant.
        case = re.search(r"[A-Z]", re.sub(r"\\.", "", words)) is not None
        flags = re.NOFLAG if case else re.IGNORECASE
        try:
            return cls(re.compile(words, flags), inverts, source)
        except re.error:
            return cls(re.compile(re.escape(words), flags), inverts, source, is_text=True)

    def matches(self, line: str) -> bool:
        return (self.regex.search(line) is None) == self.inverts

    def spans(self, line: str) -> list[tuple[int, int]]:
        """Where it matches, to be shown; an inverted one shows nothing."""
        if self.inverts:
            return []
        return [match.span() for match in self.regex.finditer(line) if match.end() > match.start()]


_LAST_LINE = (  # of a traceback: a class at the line's start, also within an exception group
    r"^(?:\s*\| )?(?:[A-Za-z_]\w*\.)*"
    r"(?:\w*(?:Error|Exception|ExceptionGroup|Interrupt|Exit|Fault|Failure)|(?<=\.)[A-Z]\w+)(?::\s|:?$)"
)
_LEVEL = r"\b(?:ERROR|CRITICAL|FATAL)\b"
_SAID = (
    r"(?:^|[\s\]])(?:[Ee]rror|fatal|FAILED)(?::|\s+tests/)|^Segmentation fault|CUDA out of memory"
)

# What `e` goes to: how a traceback ends, a log's level, what compilers and pytest say.
ERRORS = Pattern(re.compile("|".join((_LAST_LINE, _LEVEL, _SAID))), False, "errors")
_HINTS = (
    "rror",
    "xception",
    "nterrupt",
    "Exit",
    "ault",
    "ail",
    "FA",
    "ERR",
    "CRIT",
    "fatal",
    "CUDA",
)


class Matches:
    """Which lines of the store a pattern matches, as far as was looked."""

    def __init__(self, pattern: Pattern, store: Store) -> None:
        self.pattern = pattern
        self._store = store
        self._found: dict[int, array[int]] = {}  # by block, in order: places within it
        self._looked_at: dict[int, int] = {}  # by block: how many of its lines

    @property
    def count(self) -> int:
        """How many lines match, of those looked at."""
        return sum(len(found) for found in self._found.values())

    def in_block(self, block: int) -> array[int]:
        """Places within a block; none while it was not looked at."""
        return self._found.get(block, _NONE)

    @property
    def is_complete(self) -> bool:
        return self._next() is None

    def step(self) -> int | None:
        """Looks at the newest block that was not looked at yet; which one, or None."""
        block = self._next()
        if block is not None:
            self._look(block)
        return block

    def forget_from(self, line: int) -> None:
        """Lines from this one on were rewritten, taken back or added."""
        for block in range(line // BLOCK_LINES, max(self._looked_at, default=-1) + 1):
            keep = max(0, line - block * BLOCK_LINES)
            if block in self._looked_at:
                self._looked_at[block] = min(self._looked_at[block], keep)
                found = self._found[block]
                del found[bisect_left(found, keep) :]

    def forget_dropped(self) -> None:
        for block in [block for block in self._found if block < self._store.blocks().start]:
            del self._found[block], self._looked_at[block]

    def before(self, line: int) -> int | None:
        """The newest match that is older than `line`, of those found."""
        for block in reversed(self._store.blocks()):
            if block * BLOCK_LINES < line:
                found = self.in_block(block)
                at = bisect_left(found, line - block * BLOCK_LINES)
                if at:
                    return block * BLOCK_LINES + found[at - 1]
        return None

    def after(self, line: int) -> int | None:
        """The oldest match that is newer than `line`, of those found."""
        for block in self._store.blocks():
            if (block + 1) * BLOCK_LINES > line:
                found = self.in_block(block)
                at = bisect_right(found, line - block * BLOCK_LINES)
                if at < len(found):
                    return block * BLOCK_LINES + found[at]
        return None

    def is_known_between(self, start: int, end: int) -> bool:
        """Every line from `start` up to `end` was looked at."""
        blocks = self._store.blocks()
        first, last = start // BLOCK_LINES, max(start, end - 1) // BLOCK_LINES
        return all(
            self._looked_at.get(block) == len(self._store.block(block))
            for block in range(max(first, blocks.start), min(last + 1, blocks.stop))
        )

    def _next(self) -> int | None:
        for block in reversed(self._store.blocks()):
            if self._looked_at.get(block, -1) < len(self._store.block(block)):
                return block
        return None

    def _look(self, number: int) -> None:
        block = self._store.block(number)
        known = self._looked_at.get(number, 0)
        found = self._found.setdefault(number, array("I"))
        matches = self._quick if self.pattern is ERRORS else self.pattern.matches
        if known:
            lines = [plain(block.text(at)) for at in range(known, len(block))]
        else:
            lines = block.plain_lines()
        found.extend([at for at, line in enumerate(lines, known) if matches(line)])
        self._looked_at[number] = len(block)

    def _quick(self, line: str) -> bool:
        return any(hint in line for hint in _HINTS) and ERRORS.matches(line)


_NONE: array[int] = array("I")
