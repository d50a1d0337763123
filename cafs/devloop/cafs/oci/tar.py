"""Tar archives as a stream of members: v7, ustar, GNU and PAX, never seeking.

Owns the format. Refuses to know what a name means in a layer, and where content goes.

Written for layers, of which tarfile reads a fraction as many members a second, and of whose times
it loses the nanoseconds. Where the formats leave a choice, this chooses as Go's archive/tar does,
since Docker, BuildKit and umoci read what registries hold with that: a long name of GNU's wins over
PAX's; only files have content, whatever size a header claims; an empty PAX value says
nothing. Unlike it, this honours global PAX headers, as POSIX has them.

    https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html
    https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal, NamedTuple
from zlib import adler32

from .names import shown
from .tar_fields import (
    BLOCK_BYTES,
    TarInvalid,
    TarTruncated,
    decimal,
    number,
    parse_pax,
    pax_time_ns,
    until_nul,
)
from .tar_sparse import Extent, is_pax_sparse, more_old_sparse, old_sparse, pax_sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .tar_stream import TarStream

__all__ = ["Extent", "Member", "MemberKind", "TarInvalid", "TarTruncated", "read_tar"]

MAX_EXTENSION_BYTES = 1 << 20  # a long name, or the PAX records of one member; as Go has it

MemberKind = Literal["file", "link", "symlink", "chr", "blk", "dir", "fifo"]

# name mode uid gid size mtime checksum type link magic+version owner group major minor prefix
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_ADLER_PRIME = 65521
_ZEROS = bytes(BLOCK_BYTES)

_KINDS: dict[bytes, MemberKind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",  # contiguous: no file system that we know makes a difference
    b"S": "file",  # sparse, GNU's old way
    b"1": "link",
    b"2": "symlink",
    b"3": "chr",
    b"4": "blk",
    b"5": "dir",
    b"6": "fifo",
}
# One for all members that follow would be a way to tell two readers two stories.
_NEVER_GLOBAL = frozenset({b"path", b"linkpath", b"size"})
_XATTR = b"SCHILY.xattr."


class Member(NamedTuple):
    """A header with all that extends it. `name` and `link` are as they were written."""

    name: bytes
    kind: MemberKind
    mode: int  # 12 bits
    uid: int
    gid: int
    mtime_ns: int
    size_bytes: int  # of the content, holes included
    link: bytes
    rdev: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]  # sorted
    extents: tuple[Extent, ...] | None  # where a sparse file has bytes; None: everywhere


class _Extensions(NamedTuple):
    """What headers before a header say of it."""

    pax: dict[bytes, bytes]
    name: bytes = b""
    link: bytes = b""


def read_tar(stream: TarStream) -> Iterator[Member]:
    """Each member, when its content is what comes next in `stream`; what of it was not taken is
    skipped. Ends at the archive's end, where the stream may go on.

    Raises TarInvalid for what is no tar, TarTruncated where one ends early.
    """
    nothing = _Extensions({})
    everywhere: dict[bytes, bytes] = {}
    extensions = nothing
    while (header := _next_header(stream)) is not None:
        kind = header[156:157]
        if kind in b"xLK":
            extensions = _extended(extensions, kind, _extension(header, stream))
        elif kind == b"g":
            everywhere |= _checked_globals(parse_pax(_extension(header, stream)))
        else:
            if everywhere:
                extensions = extensions._replace(pax={**everywhere, **extensions.pax})
            yield _member(header, extensions, stream)
            stream.skip_content()
            extensions = nothing
    if extensions is not nothing:
        raise TarTruncated("ends after a header that extends the next one")


def _next_header(stream: TarStream) -> bytes | None:
    """None at the end: at two blocks of zeros, or at the end of the stream."""
    header = stream.take_or_end(BLOCK_BYTES)
    if not header:
        return None
    if header == _ZEROS:
        following = stream.take_or_end(BLOCK_BYTES)
        if following and following != _ZEROS:
            raise TarInvalid("has a block of zeros between its members")
        return None
    _check_sum(header)
    return header


def _check_sum(header: bytes) -> None:
    """The sum of all bytes, those of the field itself taken for spaces."""
    field = header[148:156]
    others = number(field) - 8 * 0x20 + sum(field)
    # The lower half of Adler-32 is 1 and the sum of the bytes, in one call.
    if ((adler32(header) & 0xFFFF) - 1 - others) % _ADLER_PRIME == 0:
        return
    signed = sum(header) - 256 * sum(byte > 127 for byte in header)
    if signed != number(field) - 8 * 0x20 + sum(field) - 256 * sum(byte > 127 for byte in field):
        raise TarInvalid("is no tar, or has a header with a wrong checksum")


def _extension(header: bytes, stream: TarStream) -> bytes:
    size_bytes = number(header[124:136])
    if not 0 <= size_bytes <= MAX_EXTENSION_BYTES:
        raise TarInvalid(f"has an extended header of {size_bytes:,} bytes")
    data = stream.take(size_bytes)
    stream.take(-size_bytes % BLOCK_BYTES)
    return data


def _extended(extensions: _Extensions, kind: bytes, data: bytes) -> _Extensions:
    if kind == b"x":
        return extensions._replace(pax=parse_pax(data))
    if kind == b"L":
        return extensions._replace(name=until_nul(data))
    return extensions._replace(link=until_nul(data))


def _checked_globals(records: dict[bytes, bytes]) -> dict[bytes, bytes]:
    for key in records:
        if key in _NEVER_GLOBAL or key.startswith(b"GNU.sparse."):
            raise TarInvalid(f"has one {shown(key)} for all its members")
    return records


def _member(header: bytes, extensions: _Extensions, stream: TarStream) -> Member:
    """Leaves the stream where the content begins."""
    fields = _HEADER.unpack(header)
    kind = _KINDS.get(fields[7])
    magic = fields[9]
    name, link = until_nul(fields[0]), until_nul(fields[8])
    if magic[:6] == b"ustar\0" and fields[14][0]:
        name = until_nul(_prefix(header)) + b"/" + name
    is_device = kind in ("chr", "blk") and magic[:5] == b"ustar"
    if kind == "file" and name[-1:] == b"/" and fields[7] == b"\0":
        kind = "dir"  # as it was written before 1988
    if kind is None:
        raise TarInvalid(f"has an entry {shown(name)} of an unknown type, {shown(fields[7])}")
    plain = Member(
        name,
        kind,
        number(fields[1]) & 0o7777,
        number(fields[2]),
        number(fields[3]),
        number(fields[5]) * 1_000_000_000,
        number(fields[4]) if kind == "file" else 0,
        link,
        (number(fields[12]), number(fields[13])) if is_device else (0, 0),
        (),
        None,
    )
    if extensions.pax or extensions.name or extensions.link:
        plain = _with_extensions(plain, extensions)
    if kind == "file":
        return _with_content(plain, header, extensions.pax, stream)
    return plain


def _prefix(header: bytes) -> bytes:
    """star keeps two times where POSIX has the last bytes of the prefix."""
    return header[345:476] if header[508:512] == b"tar\0" else header[345:500]


def _with_extensions(member: Member, extensions: _Extensions) -> Member:
    pax, name, link = extensions
    size = pax.get(b"size") if member.kind == "file" else None
    time = pax.get(b"mtime")
    name = name or pax.get(b"path") or member.name
    link = link or pax.get(b"linkpath") or member.link
    if b"\0" in name or b"\0" in link:
        raise TarInvalid(f"has a NUL in a name: {shown(name)}")
    return member._replace(
        name=name,
        link=link,
        uid=decimal(uid) if (uid := pax.get(b"uid")) else member.uid,
        gid=decimal(gid) if (gid := pax.get(b"gid")) else member.gid,
        mtime_ns=pax_time_ns(time) if time else member.mtime_ns,
        size_bytes=decimal(size) if size else member.size_bytes,
        xattrs=tuple(sorted(_xattrs(pax))),
    )


def _xattrs(pax: dict[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    for key, value in pax.items():
        if value and key.startswith(_XATTR):
            yield key[len(_XATTR) :], value


def _with_content(
    member: Member, header: bytes, pax: dict[bytes, bytes], stream: TarStream
) -> Member:
    stored_bytes = member.size_bytes
    if stored_bytes < 0:
        raise TarInvalid(f"has a file of {stored_bytes} bytes: {shown(member.name)}")
    extents = None
    size_bytes = stored_bytes
    if header[156:157] == b"S":
        more = more_old_sparse(header, stream)
        stream.begin_content(stored_bytes)
        size_bytes, extents = old_sparse(header, more)
    else:
        stream.begin_content(stored_bytes)
        if pax and is_pax_sparse(pax):
            size_bytes, extents = pax_sparse(pax, stream)
            member = member._replace(name=pax.get(b"GNU.sparse.name") or member.name)
    if extents is not None and sum(extent.size_bytes for extent in extents) != stream.content_left:
        raise TarInvalid(f"has a sparse file whose map does not fit: {shown(member.name)}")
    return (
        member._replace(size_bytes=size_bytes, extents=extents) if extents is not None else member
    )
