"""Sparse files in tar, in each of the four ways in which GNU has written them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from tests.cafs.oci.stack import Member, header, padded, pax_member

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FORMS", "Form", "Pieces", "sparse_member"]

Form = Literal["old", "0.0", "0.1", "1.0"]
FORMS: tuple[Form, ...] = ("old", "0.0", "0.1", "1.0")
_IN_HEADER, _IN_BLOCK = 4, 21


class Pieces(NamedTuple):
    """Where there are bytes, in order; holes elsewhere."""

    pieces: Sequence[tuple[int, bytes]]
    size_bytes: int

    @property
    def stored(self) -> bytes:
        return b"".join(data for _, data in self.pieces)

    @property
    def flat(self) -> bytes:
        """With zeros in the holes."""
        data = bytearray(self.size_bytes)
        for offset, piece in self.pieces:
            data[offset : offset + len(piece)] = piece
        return bytes(data)

    @property
    def numbers(self) -> list[bytes]:
        """Offset and size of each, as digits."""
        return [b"%d" % n for offset, data in self.pieces for n in (offset, len(data))]


def sparse_member(member: Member, pieces: Pieces, form: Form) -> bytes:
    """`member` has everything but the content, and a name that fits into the header."""
    if form == "old":
        return _old(member, pieces)
    records = list(member.pax.items())
    stored = pieces.stored
    name = member.name
    size = b"%d" % pieces.size_bytes
    if form == "1.0":
        count = len(pieces.pieces)
        stored = padded(b"\n".join([b"%d" % count, *pieces.numbers]) + b"\n") + stored
        records += [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
        records += [(b"GNU.sparse.name", name), (b"GNU.sparse.realsize", size)]
    else:
        records += [(b"GNU.sparse.size", size)]
        records += [(b"GNU.sparse.numblocks", b"%d" % len(pieces.pieces))]
        records += _map(pieces, form, name)
    short = name if form == "0.0" else b"GNUSparseFile.0/placeholder"
    told = member._replace(name=short, size=len(stored))
    return pax_member(records) + header(told) + padded(stored)


def _map(pieces: Pieces, form: Form, name: bytes) -> list[tuple[bytes, bytes]]:
    if form == "0.1":
        return [(b"GNU.sparse.name", name), (b"GNU.sparse.map", b",".join(pieces.numbers))]
    keys = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
    return [(keys[place % 2], number) for place, number in enumerate(pieces.numbers)]


def _old(member: Member, pieces: Pieces) -> bytes:
    """The map begins where POSIX has the prefix, and goes on in blocks of its own."""
    entries = [b"%011o\0%011o\0" % (offset, len(data)) for offset, data in pieces.pieces]
    first, rest = entries[:_IN_HEADER], entries[_IN_HEADER:]
    blocks = [rest[at : at + _IN_BLOCK] for at in range(0, len(rest), _IN_BLOCK)]
    size = b"%011o\0" % pieces.size_bytes
    fields = bytes(41) + b"".join(first).ljust(96, b"\0") + bytes([bool(blocks)]) + size
    told = member._replace(
        type=b"S", magic=b"ustar  \0", prefix=fields, size=len(pieces.stored), pax={}
    )
    more = [
        (b"".join(block).ljust(504, b"\0") + bytes([number < len(blocks)])).ljust(512, b"\0")
        for number, block in enumerate(blocks, 1)
    ]
    return header(told) + b"".join(more) + padded(pieces.stored)
