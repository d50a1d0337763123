"""References to images in files: `oci:`, `oci-archive:` and `docker-archive:`.

A path may have a colon in it where something of that name exists: then it is no separator.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .reference import DIGEST
from .source_errors import ReferenceInvalid

__all__ = ["LocalReference", "parse_local"]

TRANSPORTS = ("oci", "oci-archive", "docker-archive")


class LocalReference(NamedTuple):
    """`wanted`: a tag, NAME:TAG or a digest; empty where the path holds one image."""

    transport: str
    path: Path
    wanted: str

    def __str__(self) -> str:
        separator = "@" if DIGEST.fullmatch(self.wanted) else ":"
        wanted = f"{separator}{self.wanted}" if self.wanted else ""
        return f"{self.transport}:{self.path}{wanted}"


def parse_local(text: str) -> LocalReference | None:
    """None when it begins with none of the transports. Raises ReferenceInvalid."""
    transport, _, rest = text.partition(":")
    if transport not in TRANSPORTS or rest.startswith("//"):
        return None
    path, wanted = _split(rest)
    if not path.isprintable():
        raise ReferenceInvalid("the path to an image has no control characters")
    if not path:
        raise ReferenceInvalid(f'"{text}" names no path', hint=f"{transport}:PATH[:TAG]")
    return LocalReference(transport, Path(path).expanduser().absolute(), wanted)


def _split(rest: str) -> tuple[str, str]:
    path, at, digest = rest.rpartition("@")
    if at and DIGEST.fullmatch(digest):
        return path, digest
    parts = rest.split(":")
    for end in range(len(parts), 0, -1):
        path = ":".join(parts[:end])
        if path and Path(path).expanduser().exists():
            return path, ":".join(parts[end:])
    return parts[0], ":".join(parts[1:])
