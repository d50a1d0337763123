"""What of a line can be opened: a file at a line, or an address. Plain text in, places out."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

__all__ = ["Link", "links"]

_LINK = re.compile(
    r'File "(?P<quoted>[^"\n]+)", line (?P<at>\d+)'
    r"|(?P<url>https?://[^\s<>\"'`│┃|]+)"
    r"|(?<![\w./~-])(?P<path>(?:[\w.~-]*/)*[\w.-]+\.(?:py|pyx|pyi|c|cc|cpp|cu|cuh|h|hpp|rs|go|js|ts|toml|yaml|yml|json|sh))"
    r":(?P<line>\d+)\b"
)
_TRAILING = ".,;:!?)]}"


class Link(NamedTuple):
    """Characters `start` to `end` of the line. Either `path` and its `line`, or `url`."""

    start: int
    end: int
    path: str = ""
    line: int = 0
    url: str = ""


@lru_cache(maxsize=1024)
def links(text: str) -> tuple[Link, ...]:
    """In order."""
    if ":" not in text and 'File "' not in text:
        return ()
    return tuple(_link(match) for match in _LINK.finditer(text))


def _link(match: re.Match[str]) -> Link:
    start, end = match.span()
    if match["url"]:
        url = match["url"].rstrip(_TRAILING)
        if url.count("(") > url.count(")") and match["url"].startswith(url + ")"):
            url += ")"
        return Link(start, start + len(url), url=url)
    if match["quoted"]:
        return Link(start, end, path=match["quoted"], line=int(match["at"][:9]))
    return Link(start, end, path=match["path"], line=int(match["line"][:9]))
