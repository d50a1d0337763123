"""Reads `.env` files. Expands nothing: `$HOME` in a value stays as it is written.

Format: one `NAME=VALUE` a line, `export` before it allowed. `'…'` is literal; `"…"` knows the
escapes \\n, \\r, \\t, \\", \\$ and \\\\; both may span lines. A value without quotes is
stripped and ends at ` #`. No message holds a value: it may be a secret.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["parse_dotenv", "read_dotenv"]

_SKIPPED = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*")
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:\\.|[^"\\])*)"', re.DOTALL)
_BARE = re.compile(r"""((?!['"])[^\n]*?)(?=[ \t]*(?:[ \t]\#[^\n]*)?(?:\n|\Z))""")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "$": "$", "\\": "\\"}


def read_dotenv(path: Path) -> dict[str, str]:
    """The variables of the file. Raises ConfigError, which names the file and the line."""
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}", hint="run.env_file names it; create it or remove the key"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    return parse_dotenv(text, path.name)


def parse_dotenv(text: str, file_name: str) -> dict[str, str]:
    """The variables in `text`; the last one of a name counts. Raises ConfigError."""
    text = text.replace("\r\n", "\n")
    variables: dict[str, str] = {}
    offset = 0
    while offset < len(text):
        if skipped := _SKIPPED.match(text, offset):
            offset = skipped.end()
            continue
        line = text.count("\n", 0, offset) + 1
        name = _NAME.match(text, offset)
        if name is None:
            raise ConfigError(f"{file_name}:{line}: not NAME=VALUE", hint="comments start with #")
        value, offset = _read_value(text, name.end())
        rest = _SKIPPED.match(text, offset) if value is not None else None
        if value is None or rest is None or "\0" in value:
            raise ConfigError(
                f"{file_name}:{line}: the value of {name[1]} cannot be read",
                hint="close its quotes, and put nothing but a comment after them",
            )
        variables[name[1]] = value
        offset = rest.end()
    return variables


def _read_value(text: str, offset: int) -> tuple[str | None, int]:
    for pattern in (_SINGLE, _DOUBLE, _BARE):
        if match := pattern.match(text, offset):
            value = match[1]
            return (_unescaped(value) if pattern is _DOUBLE else value), match.end()
    return None, offset


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[0]), text)
