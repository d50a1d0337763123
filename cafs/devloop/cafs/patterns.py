"""Patterns in gitignore syntax, matched against paths as the file system holds them (bytes).

Owns what one list of patterns says about one path, exactly as git reads it: order and `!`,
anchoring, `**`, escapes, trailing spaces, character classes. Refuses to know where the lines came
from and how several lists are layered.

Speed: most patterns in the wild are a plain name, a `*.suffix` or a plain path. Those are looked
up in dictionaries; only what remains becomes a regular expression.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Patterns"]

_SPECIAL = frozenset(b"*?[\\")
_CLASSES = {
    b"alnum": b"0-9A-Za-z",
    b"alpha": b"A-Za-z",
    b"blank": b" \\t",
    b"cntrl": b"\\x00-\\x1f\\x7f",
    b"digit": b"0-9",
    b"graph": b"!-~",
    b"lower": b"a-z",
    b"print": b" -~",
    b"punct": b"!-/:-@\\[-`{-~",
    b"space": b" \\t\\n\\r",
    b"upper": b"A-Z",
    b"xdigit": b"0-9A-Fa-f",
}
_NEVER = b"(?!)"


class _Pattern(NamedTuple):
    text: bytes  # without "!", without a leading and a trailing "/"
    negated: bool
    dirs_only: bool
    by_name: bool  # holds no "/": matches the last component at any depth
    literal_len: int  # how much of `text` precedes the first special character


class _Matcher:
    """What a list of patterns says about one kind of entry, files or directories.

    A rank is a pattern's place in the list: the highest that matches wins.
    """

    __slots__ = ("_lens", "_name_ranks", "_name_regex", "_names", "_path_ranks", "_path_regex",
                 "_paths", "_suffixes", "looks_at_paths")  # fmt: skip

    def __init__(self, patterns: list[tuple[int, _Pattern]]) -> None:
        self._names: dict[bytes, int] = {}
        self._suffixes: dict[bytes, int] = {}
        self._paths: dict[bytes, int] = {}
        name_regexes: list[tuple[int, bytes]] = []
        path_regexes: list[tuple[int, bytes]] = []
        for rank, pattern in patterns:
            text = pattern.text
            if pattern.literal_len == len(text):
                (self._names if pattern.by_name else self._paths)[text] = rank
            elif pattern.by_name and text[:1] == b"*" and len(text) > 1 and _is_literal(text[1:]):
                self._suffixes[text[1:]] = rank
            else:
                regexes = name_regexes if pattern.by_name else path_regexes
                regexes.append((rank, _regex(pattern)))
        self._lens = sorted({len(suffix) for suffix in self._suffixes})
        self._name_regex, self._name_ranks = _combined(name_regexes)
        self._path_regex, self._path_ranks = _combined(path_regexes)
        self.looks_at_paths = bool(self._paths or path_regexes)

    def rank(self, name: bytes, path: bytes) -> int:
        """The highest rank that matches; -1 for none."""
        best = self._names.get(name, -1)
        suffixes = self._suffixes
        for length in self._lens:
            rank = suffixes.get(name[-length:], -1)
            if rank > best:
                best = rank
        if self._name_regex is not None:
            found = self._name_regex(name)
            if found is not None:
                best = max(best, self._name_ranks[found.lastindex or 0])
        return self._path_rank(path, best) if self.looks_at_paths else best

    def _path_rank(self, path: bytes, best: int) -> int:
        best = max(best, self._paths.get(path, -1))
        if self._path_regex is not None:
            found = self._path_regex(path)
            if found is not None:
                best = max(best, self._path_ranks[found.lastindex or 0])
        return best


_Match: TypeAlias = "Callable[[bytes], re.Match[bytes] | None]"


def _combined(regexes: list[tuple[int, bytes]]) -> tuple[_Match | None, list[int]]:
    """One expression for all, the highest rank first; an empty group behind each tells which.

    The group stands behind and not around: an alternative that begins with a literal is then
    passed over without being entered.
    """
    if not regexes:
        return None, []
    ranked = regexes[::-1]
    combined = re.compile(b"|".join(regex + rb"\Z()" for _, regex in ranked), re.DOTALL)
    return combined.match, [-1, *(rank for rank, _ in ranked)]


class Patterns:
    """One list of gitignore patterns; the last one that matches decides."""

    __slots__ = ("_for_dirs", "_for_files", "_negated")

    def __init__(self, lines: Iterable[str | bytes]) -> None:
        parsed = (_parse(line.encode() if isinstance(line, str) else line) for line in lines)
        patterns = list(enumerate(pattern for pattern in parsed if pattern is not None))
        self._negated = [pattern.negated for _, pattern in patterns]
        self._for_dirs = _Matcher(patterns)
        self._for_files = _Matcher([item for item in patterns if not item[1].dirs_only])

    @classmethod
    def from_file(cls, data: bytes) -> Patterns:
        """The patterns of an ignore file with these bytes."""
        lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        return cls(line.removesuffix(b"\r") for line in lines)

    def __len__(self) -> int:
        return len(self._negated)

    @property
    def looks_at_paths(self) -> bool:
        """False when the last component of a path is all that `decide` needs."""
        return self._for_dirs.looks_at_paths

    def match(self, path: bytes, is_dir: bool) -> bool:
        """Whether `path`, or a directory above it, is matched.

        As in git, nothing below a matched directory can be taken out again by a `!`.
        """
        slash = path.find(b"/")
        while slash != -1:
            if self.decide(path[:slash], True):
                return True
            slash = path.find(b"/", slash + 1)
        return bool(self.decide(path, is_dir))

    def decide(self, path: bytes, is_dir: bool) -> bool | None:
        """True for matched, False for taken out by `!`, None for no word about this path.

        Looks at `path` alone and never at the directories above it.
        """
        return self.decide_name(path[path.rfind(b"/") + 1 :], path, is_dir)

    def decide_name(self, name: bytes, path: bytes, is_dir: bool) -> bool | None:
        """`decide` for a caller that has the last component at hand."""
        rank = (self._for_dirs if is_dir else self._for_files).rank(name, path)
        return None if rank < 0 else not self._negated[rank]


def _is_literal(text: bytes) -> bool:
    return _SPECIAL.isdisjoint(text)


def _parse(line: bytes) -> _Pattern | None:
    """None for a line that holds no pattern."""
    if line.startswith(b"#"):
        return None
    text = _without_trailing_spaces(line.split(b"\0", 1)[0])
    negated = text.startswith(b"!")
    text = text[1:] if negated else text
    dirs_only = text.endswith(b"/")
    text = text[:-1] if dirs_only else text
    by_name = b"/" not in text
    text = text.removeprefix(b"/")
    if not text:
        return None
    return _Pattern(text, negated, dirs_only, by_name, _literal_len(text))


def _without_trailing_spaces(line: bytes) -> bytes:
    """Spaces at the end go, unless a backslash keeps them."""
    end, i = 0, 0
    while i < len(line):
        if line[i : i + 1] == b"\\":
            if i + 1 == len(line):
                return line
            i += 1
            end = i + 1
        elif line[i : i + 1] != b" ":
            end = i + 1
        i += 1
    return line[:end]


def _literal_len(text: bytes) -> int:
    return next((i for i, byte in enumerate(text) if byte in _SPECIAL), len(text))


def _regex(pattern: _Pattern) -> bytes:
    # git compares the literal beginning first and matches the rest by itself. It shows: the `**`
    # of `/a**/b` stands at the beginning of that rest, and so crosses directories.
    head, rest = pattern.text[: pattern.literal_len], pattern.text[pattern.literal_len :]
    return re.escape(head) + _translate(rest, pattern.by_name)


def _translate(text: bytes, by_name: bool) -> bytes:
    parts: list[bytes] = []
    i = 0
    while i < len(text):
        char = text[i : i + 1]
        if char == b"*":
            part, i = _stars(text, i, by_name)
        elif char == b"[":
            part, i = _bracket(text, i)
        elif char == b"\\":
            part = re.escape(text[i + 1 : i + 2]) if i + 1 < len(text) else _NEVER
            i += 2
        else:
            part, i = (b"[^/]" if char == b"?" else re.escape(char)), i + 1
        parts.append(part)
    return b"".join(parts)


def _stars(text: bytes, start: int, by_name: bool) -> tuple[bytes, int]:
    end = start
    while text[end : end + 1] == b"*":
        end += 1
    after = text[end : end + 2]
    whole_component = start == 0 or text[start - 1 : start] == b"/"
    ends_component = not after or after.startswith(b"/") or after == b"\\/"
    if by_name or end - start < 2 or not (whole_component and ends_component):
        return b"[^/]*", end
    if after.startswith(b"/"):
        return b"(?:.*/)?", end + 1  # `**/` also stands for no directory at all
    return b".*", end


def _bracket(text: bytes, start: int) -> tuple[bytes, int]:
    """A character class and where it ends; one that is malformed matches nothing."""
    i = start + 1
    negated = text[i : i + 1] in (b"!", b"^")
    i += negated
    members: list[bytes] = []
    previous: int | None = None
    first = True
    while first or text[i : i + 1] != b"]":
        first = False
        item = _bracket_item(text, i, previous)
        if item is None:
            return _NEVER, len(text)
        member, previous, i = item
        members.append(member)
    inside = b"".join(members)
    if negated:
        return b"[^/" + inside + b"]", i + 1
    return (b"(?!/)[" + inside + b"]" if inside else _NEVER), i + 1


def _bracket_item(
    text: bytes, i: int, previous: int | None
) -> tuple[bytes, int | None, int] | None:
    """One member of a class: what it adds, what a following `-` would range from, where it ends."""
    char = text[i : i + 1]
    if not char:
        return None
    if char == b"[" and text[i + 1 : i + 2] == b":":
        return _named_class(text, i)
    if char == b"-" and previous and text[i + 1 : i + 2] not in (b"", b"]"):
        i += 1
        i += text[i : i + 1] == b"\\"
        if i >= len(text):
            return None
        return _range(previous, text[i]), None, i + 1
    i += char == b"\\"
    if i >= len(text):
        return None
    return _range(text[i], text[i]), text[i], i + 1


def _named_class(text: bytes, i: int) -> tuple[bytes, int | None, int] | None:
    close = text.find(b"]", i + 2)
    if close == -1:
        return None
    if close == i + 2 or text[close - 1 : close] != b":":
        return rb"\[", ord("["), i + 1  # not a named class after all: an ordinary "["
    name = text[i + 2 : close - 1]
    return (_CLASSES[name], None, close + 1) if name in _CLASSES else None


def _range(low: int, high: int) -> bytes:
    return b"\\x%02x-\\x%02x" % (low, high) if low <= high else b""
