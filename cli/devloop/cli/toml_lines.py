"""On which line a TOML document names a key: what `tomllib` reads and then forgets.

Reads only documents that `tomllib` has already accepted, so it checks nothing and decodes no value.
Knows no key of devloop.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["key_lines"]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY_PART = re.compile(r"""[ \t]*([A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')[ \t]*(\.?)""")
_TEXT = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|[^,\]}#\n]+",  # numbers, booleans, dates
    re.DOTALL,
)


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Every key and table of `text` with the line, from 1, that names it first."""
    scanner = _Scanner(text)
    scanner.read_document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[tuple[str, ...], int] = {}
        self._text = text
        self._offset = 0

    def read_document(self) -> None:
        table: tuple[str, ...] = ()
        while self._next_character():
            if self._text.startswith("[", self._offset):
                table = self._read_header()
            else:
                self._read_pair(table)

    def _read_header(self) -> tuple[str, ...]:
        brackets = 2 if self._text.startswith("[[", self._offset) else 1
        self._offset += brackets
        table = self._read_key(())
        self._offset += brackets
        return table

    def _read_pair(self, table: tuple[str, ...]) -> None:
        key = self._read_key(table)
        self._offset += 1  # "="
        self._read_value(key)

    def _read_key(self, table: tuple[str, ...]) -> tuple[str, ...]:
        """Reads a dotted key and records it, with every table that it implies."""
        line = self._text.count("\n", 0, self._offset) + 1
        key = table
        more = "."
        while more:
            word, more = self._match(_KEY_PART).groups()
            key = (*key, _unquoted(word))
            self.lines.setdefault(key, line)
        return key

    def _read_value(self, key: tuple[str, ...]) -> None:
        first = self._next_character()
        if first == "{":
            self._read_items("}", lambda: self._read_pair(key))
        elif first == "[":
            self._read_items("]", lambda: self._read_value(key))
        else:
            self._match(_TEXT)

    def _read_items(self, end: str, read_item: Callable[[], None]) -> None:
        self._offset += 1
        while (first := self._next_character()) != end:
            if first == ",":
                self._offset += 1
            else:
                read_item()
        self._offset += 1

    def _next_character(self) -> str:
        """The first character that is neither blank nor in a comment; empty at the end."""
        self._match(_BLANK)
        return self._text[self._offset : self._offset + 1]

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._offset)
        if match is None:
            raise ValueError(f"not TOML at character {self._offset}")
        self._offset = match.end()
        return match


def _unquoted(word: str) -> str:
    return str(tomllib.loads(f"x = {word}")["x"]) if word[0] in "\"'" else word
