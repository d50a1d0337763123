"""The command line's own errors, and how any error of devloop is told to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

__all__ = ["ConfigError", "UsageError", "nearest", "report_error"]

_RED, _CYAN, _PLAIN = "\x1b[1;31m", "\x1b[36m", "\x1b[0m"


class UsageError(DevloopError):
    """The command line itself makes no sense."""

    exit_code = 2


class ConfigError(DevloopError):
    """The project's configuration cannot be used. The message starts with where: `file:line:`."""


def report_error(error: DevloopError, stream: TextIO, *, color: bool = False) -> None:
    """Writes `error: …` and, when there is one, `hint: …`."""
    red, cyan, plain = (_RED, _CYAN, _PLAIN) if color else ("", "", "")
    lines = f"{red}error:{plain} {_printable(str(error))}\n"
    if error.hint:
        lines += f"{cyan}hint:{plain} {_printable(error.hint)}\n"
    stream.write(lines)
    stream.flush()


def _printable(text: str) -> str:
    """No byte of a file's name or a config's value reaches the terminal as a control code."""
    safe = "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)
    return safe.replace("\n", "\n       ")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that `word` was most likely meant to be."""
    from difflib import get_close_matches  # only the way to an error pays for it

    matches = get_close_matches(word, list(words), n=1, cutoff=0.6)
    return matches[0] if matches else None
