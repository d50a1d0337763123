"""From a tar member to what it asks of the tree: which fields are taken, and what is refused.

As umoci does it, but that a value which no Linux file can have is refused, and not set to another.
Extended attributes that would mean something to the file systems below a container, or that the
kernel would not set, are left out (`index.is_kept_xattr`); so are SELinux's, which are the host's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devloop.cafs.index import (
    MAX_ID,
    MAX_MAJOR,
    MAX_MINOR,
    MAX_TARGET_BYTES,
    MAX_XATTR_BYTES,
    Inode,
    is_kept_xattr,
)

from .flatten import Entry
from .names import OPAQUE, WHITEOUT, NameInvalid, clean, is_ignored, shown

if TYPE_CHECKING:
    from devloop.cafs.digest import Digest

    from .names import Path
    from .tar import Member

__all__ = ["entry_of", "is_whiteout", "path_of"]

_TIMES = range(-(2**63), 2**63)


def path_of(member: Member) -> Path | None:
    """Where the member belongs, whiteout or not; None for what is to be ignored.

    Raises NameInvalid.
    """
    path = clean(member.name)
    if b".wh." in member.name and path and is_ignored(path):
        return None
    return path


def entry_of(
    member: Member, path: Path, digest: Digest | None = None, chunks: Digest | None = None
) -> Entry:
    """`digest` and `chunks` are those of its content. Raises NameInvalid."""
    if path and path[-1].startswith(WHITEOUT):
        if path[-1] == OPAQUE:
            return Entry("opaque", path[:-1])
        return Entry("hide", (*path[:-1], path[-1][len(WHITEOUT) :]))
    if member.kind == "link":
        return Entry("link", path, target=clean(member.link))
    return Entry("put", path, _inode(member, digest, chunks))


def is_whiteout(path: Path) -> bool:
    return bool(path) and path[-1].startswith(WHITEOUT)


def _inode(member: Member, digest: Digest | None, chunks: Digest | None) -> Inode:
    kind = member.kind
    assert kind != "link"
    if not 0 <= member.uid <= MAX_ID or not 0 <= member.gid <= MAX_ID:
        raise NameInvalid(f"an impossible owner {member.uid}:{member.gid} of {shown(member.name)}")
    if member.mtime_ns not in _TIMES:
        raise NameInvalid(f"an impossible time of {shown(member.name)}")
    return Inode(
        kind,
        0o777 if kind == "symlink" else member.mode,
        member.uid,
        member.gid,
        member.mtime_ns,
        member.size_bytes,
        digest,
        _checked_target(member) if kind == "symlink" else b"",
        _checked_device(member) if kind in ("chr", "blk") else (0, 0),
        _kept_xattrs(member) if member.xattrs else (),
        chunks,
    )


def _checked_target(member: Member) -> bytes:
    if not 0 < len(member.link) <= MAX_TARGET_BYTES:
        size = f"{len(member.link):,} bytes"
        raise NameInvalid(f"a symbolic link whose target has {size}: {shown(member.name)}")
    return member.link


def _checked_device(member: Member) -> tuple[int, int]:
    major, minor = member.rdev
    if not 0 <= major <= MAX_MAJOR or not 0 <= minor <= MAX_MINOR:
        raise NameInvalid(f"an impossible device {major}:{minor}: {shown(member.name)}")
    return member.rdev


def _kept_xattrs(member: Member) -> tuple[tuple[bytes, bytes], ...]:
    kept = tuple([(name, value) for name, value in member.xattrs if is_kept_xattr(name)])
    for name, value in kept:
        if len(value) > MAX_XATTR_BYTES:
            size = f"{len(value):,} bytes"
            raise NameInvalid(f"{shown(name)} of {size} as an attribute of {shown(member.name)}")
    return kept
