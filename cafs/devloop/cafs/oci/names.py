"""What a tar member's name means in a layer: a path, or a whiteout. Pure; knows no tree.

The rules are umoci's and containerd's where those are safe, and refusals where they are not:

    "/etc/passwd", "./etc//passwd"    etc/passwd: a leading slash, dots and doubles mean nothing
    "a/../b"                          b: lexically, before any symbolic link is looked at
    "../b", "a/../../b"               refused (those two clamp it at the root)
    ""                                the root, which has to be a directory
    ".wh.NAME"                        hides NAME of the layers below
    ".wh..wh..opq"                    hides all of its directory in the layers below
    ".wh..wh.ANYTHING", and below it  AUFS's own, ignored
    ".wh.", ".wh..", ".wh..."         refused (umoci deletes the directory, or the one above)
    ".wh.NAME/…"                      refused: no directory can have such a name
"""

from __future__ import annotations

from typing import TypeAlias

from devloop.cafs.index import MAX_NAME_BYTES, MAX_PATH_BYTES

__all__ = ["OPAQUE", "WHITEOUT", "NameInvalid", "Path", "clean", "is_ignored", "shown"]

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_IGNORED = b".wh..wh."

Path: TypeAlias = tuple[bytes, ...]  # components; none for the root


class NameInvalid(Exception):
    """The message continues "the layer has"."""


def clean(name: bytes) -> Path:
    """The components of a member's name or of a hard link's target. Raises NameInvalid."""
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        parts = _without_dots(name, parts)
    if len(name) > MAX_NAME_BYTES:
        _check_sizes(name, parts)
    return tuple(parts)


def _without_dots(name: bytes, parts: list[bytes]) -> list[bytes]:
    left: list[bytes] = []
    for part in parts:
        if part != b"..":
            left.append(part)
        elif left:
            left.pop()
        else:
            raise NameInvalid(f"a name that leads out of the image: {shown(name)}")
    return left


def _check_sizes(name: bytes, parts: list[bytes]) -> None:
    size_bytes = sum(map(len, parts)) + len(parts) - 1
    if size_bytes > MAX_PATH_BYTES:
        raise NameInvalid(
            f"a path of {size_bytes:,} bytes, more than {MAX_PATH_BYTES:,}: {shown(name)}"
        )
    longest = max(map(len, parts), default=0)
    if longest > MAX_NAME_BYTES:
        raise NameInvalid(f"a name of {longest:,} bytes, more than {MAX_NAME_BYTES}: {shown(name)}")


def is_ignored(path: Path) -> bool:
    """Is it AUFS's own? Raises NameInvalid for a whiteout that hides nothing nameable."""
    for part in path:
        if part.startswith(_IGNORED) and part != OPAQUE:
            return True
    if any(part.startswith(WHITEOUT) for part in path[:-1]):
        raise NameInvalid(f"something below a whiteout: {shown(b'/'.join(path))}")
    if path[-1].startswith(WHITEOUT) and path[-1][len(WHITEOUT) :] in (b"", b".", b".."):
        raise NameInvalid(f"a whiteout of nothing: {shown(b'/'.join(path))}")
    return False


def shown(name: bytes) -> str:
    """For people: not more than fits on a line, and nothing that a terminal would act upon."""
    text = ascii(name.decode("utf-8", "backslashreplace"))
    return text if len(text) <= 120 else f"{text[:80]}…{text[-30:]}"
