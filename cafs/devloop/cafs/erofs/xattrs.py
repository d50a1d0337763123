"""Extended attributes of an image's inodes, as EROFS stores them and overlayfs reads them.

    inline, after the inode     12 bytes: filter (unused), number of shared ones, zeros
                                4 bytes each shared one: (its offset in the shared area) / 4
                                entries
    an entry                    length of the name, number of its prefix, length of the value (16
                                bits), name without the prefix, value; padded to 4 bytes

The inode counts inline bytes in units of 4 in 16 bits: larger values go to the shared area, where
each distinct entry is stored once.

A file with bytes carries two attributes for overlayfs: `trusted.overlay.metacopy`, empty ("the data
is elsewhere"), and `trusted.overlay.redirect`, the absolute path of its blob in the data-only
layers. Attributes of the image itself must not be taken for such ones: overlayfs shows
`trusted.overlay.overlay.X` of a lower layer as `trusted.overlay.X` (Linux 6.7; older ones hide it).

Left out, since no reader could ever ask for them: names of no prefix that Linux has here
(`system.nfs4_acl`), names longer than 255 bytes, and values longer than 65,535, a byte less than
Linux allows elsewhere.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.digest import DIGEST_BYTES
from devloop.cafs.errors import DevloopError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devloop.cafs.digest import Digest

__all__ = ["MetadataUnwritable", "SharedArea", "Xattrs", "blob_path", "encoded", "escaped"]

_HEADER = Struct("<IB7x")
_ENTRY = Struct("<BBH")
_SHARED_ID = Struct("<I")
_MOST_VALUE_BYTES = 0xFFFF
_MOST_NAME_BYTES = 255
_MOST_SHARED = 255
_SHARE_FROM_BYTES = 1024  # an entry below this stays with its inode: one block read less
_MOST_UNITS = 0xFFFF
_TRUSTED = 4
_PREFIXES = (
    (b"user.", 1),
    (b"trusted.", _TRUSTED),
    (b"security.", 6),
)
_WHOLE_NAMES = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_OVERLAY = b"trusted.overlay."
_OVERLAY_ESCAPED = b"trusted.overlay.overlay."


class MetadataUnwritable(DevloopError):
    """An image that this file system cannot hold."""

    hint = "make the image without it"


class Xattrs(NamedTuple):
    """What follows an inode, and the inode's count of it."""

    body: bytes
    units: int  # i_xattr_icount: 0 without xattrs, else 1 + (bytes - 12) / 4


NONE = Xattrs(b"", 0)


class SharedArea:
    """The xattrs that do not lie beside an inode."""

    def __init__(self) -> None:
        self._entries: dict[bytes, int] = {}  # entry → its offset
        self.size_bytes = 0

    def add(self, entry: bytes) -> int:
        """The number by which an inode names the entry."""
        offset = self._entries.setdefault(entry, self.size_bytes)
        if offset == self.size_bytes:
            self.size_bytes += len(entry)
        return offset // 4

    def encoded(self) -> bytes:
        return b"".join(self._entries)


def blob_path(digest: Digest) -> bytes:
    """The path of a blob from the root of a data-only layer."""
    text = digest.hex().encode()
    return b"/" + text[:2] + b"/" + text[2:]


def encoded(
    xattrs: Sequence[tuple[bytes, bytes]], shared: SharedArea, digest: Digest | None
) -> Xattrs:
    """Of an inode with these (name, value) pairs whose bytes, if any, are the blob `digest`.

    Raises MetadataUnwritable when they are more than an inode can have, some 256 KiB.
    """
    if not xattrs and digest is not None:  # nearly all of them
        return Xattrs(_POINTED + blob_path(digest) + _POINTER_PADDING, _POINTED_UNITS)
    inline = [b"" if digest is None else _POINTER + blob_path(digest) + _POINTER_PADDING]
    ids: list[int] = []
    for name, value in xattrs:
        entry = _entry(escaped(name), value)
        if entry is None:
            continue
        if len(entry) < _SHARE_FROM_BYTES or len(ids) == _MOST_SHARED:
            inline.append(entry)
        else:
            ids.append(shared.add(entry))
    return _with_header(b"".join(inline), ids)


def _with_header(entries: bytes, shared_ids: list[int]) -> Xattrs:
    if not entries and not shared_ids:
        return NONE
    ids = b"".join(map(_SHARED_ID.pack, shared_ids))
    body = _HEADER.pack(0, len(shared_ids)) + ids + entries
    units = 1 + (len(body) - _HEADER.size) // 4
    if units > _MOST_UNITS:
        raise MetadataUnwritable(f"a file has {len(body):,} bytes of extended attributes")
    return Xattrs(body, units)


def escaped(name: bytes) -> bytes:
    """How overlayfs wants an attribute called, in a lower layer, that it would else obey itself."""
    return _OVERLAY_ESCAPED + name[len(_OVERLAY) :] if name.startswith(_OVERLAY) else name


def _entry(name: bytes, value: bytes) -> bytes | None:
    """None for one that is left out."""
    if len(value) > _MOST_VALUE_BYTES or len(name) > _MOST_NAME_BYTES:
        return None
    index = _WHOLE_NAMES.get(name)
    if index is not None:
        return _packed(index, b"", value)
    for prefix, number in _PREFIXES:
        if name.startswith(prefix) and len(name) > len(prefix):
            return _packed(number, name[len(prefix) :], value)
    return None


def _packed(index: int, suffix: bytes, value: bytes) -> bytes:
    entry = _ENTRY.pack(len(suffix), index, len(value)) + suffix + value
    return entry + bytes(-len(entry) % 4)


_PATH_BYTES = 2 + 2 * DIGEST_BYTES  # of what blob_path gives
_POINTER = _packed(_TRUSTED, b"overlay.metacopy", b"") + (
    _ENTRY.pack(len(b"overlay.redirect"), _TRUSTED, _PATH_BYTES) + b"overlay.redirect"
)
_POINTER_PADDING = bytes(-_PATH_BYTES % 4)
_POINTED = _HEADER.pack(0, 0) + _POINTER
_POINTED_UNITS = 1 + (len(_POINTER) + _PATH_BYTES + len(_POINTER_PADDING)) // 4
