"""Layers made member by member, with all that tar can say, and an image source that holds them.

A member here may be anything, also what no tool would write.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, TypeAlias

import zstandard

from devloop.cafs.oci.source import Descriptor, Layer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "END",
    "Member",
    "MemorySource",
    "as_layer",
    "encoded",
    "gnu_encoded",
    "header",
    "padded",
    "pax_member",
    "tar_of",
    "ustar_encoded",
]

END = bytes(1024)
GNU = b"ustar  \0"
_TYPE = "application/vnd.oci.image.layer.v1.tar"


class Member(NamedTuple):
    name: bytes
    type: bytes = b"0"
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_600_000_000
    link: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    pax: Mapping[bytes, bytes] = {}
    size: int | None = None  # what the header claims, if that is not the size of the data
    magic: bytes = b"ustar\x0000"
    prefix: bytes = b""


Records: TypeAlias = "Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]"  # a key may come twice


def octal(value: int, width: int) -> bytes:
    """Binary where the digits do not fit, as GNU and Go write it."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return bytes([0xFF if value < 0 else 0x80]) + value.to_bytes(width - 1, "big", signed=True)


def header(member: Member) -> bytes:
    """One block, as it is; names that are too long are cut off."""
    size = len(member.data) if member.size is None else member.size
    block = b"".join(
        (
            member.name[:100].ljust(100, b"\0"),
            octal(member.mode, 8),
            octal(member.uid, 8),
            octal(member.gid, 8),
            octal(size, 12),
            octal(member.mtime, 12),
            b" " * 8,
            member.type,
            member.link[:100].ljust(100, b"\0"),
            member.magic,
            bytes(64),
            octal(member.rdev[0], 8),
            octal(member.rdev[1], 8),
            member.prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax_member(records: Records, kind: bytes = b"x") -> bytes:
    pairs = records.items() if hasattr(records, "items") else records
    data = b"".join(_record(key, value) for key, value in pairs)
    return header(Member(b"pax", kind, data)) + padded(data)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest)
    while size != len(rest) + len(str(size)):
        size = len(rest) + len(str(size))
    return str(size).encode() + rest


def encoded(member: Member) -> bytes:
    """With a PAX header where the plain one does not hold all of it."""
    pax = dict(member.pax)
    if len(member.name) > 100:
        pax.setdefault(b"path", member.name)
    if len(member.link) > 100:
        pax.setdefault(b"linkpath", member.link)
    return (pax_member(pax) if pax else b"") + header(member) + padded(member.data)


def gnu_encoded(member: Member) -> bytes:
    """With GNU's own headers for long names, and nothing of PAX."""
    member = member._replace(magic=GNU, pax={})
    long = [(b"L", member.name), (b"K", member.link)]
    before = [
        header(Member(b"././@LongLink", kind, name + b"\0", magic=GNU)) + padded(name + b"\0")
        for kind, name in long
        if len(name) > 100
    ]
    return b"".join(before) + header(member) + padded(member.data)


def ustar_encoded(member: Member) -> bytes:
    """With the first folders of a long name in the prefix; as `encoded` where that cannot be."""
    split = member.name.rfind(b"/", 0, 156)
    if member.pax or len(member.link) > 100 or split <= 0 or len(member.name) - split > 101:
        return encoded(member)
    named = member._replace(name=member.name[split + 1 :], prefix=member.name[:split])
    return encoded(named) if named.name else encoded(member)


def tar_of(members: Iterable[Member | bytes]) -> bytes:
    """Bytes are taken as they are."""
    return b"".join(m if isinstance(m, bytes) else encoded(m) for m in members) + END


def as_layer(
    tar: bytes, how: Literal["gzip", "zstd", "plain"] = "gzip", *, diff_id: str | None = None
) -> Layer:
    data = {"gzip": gzip.compress, "zstd": zstandard.compress, "plain": bytes}[how](tar)
    suffix = "" if how == "plain" else f"+{how}"
    descriptor = Descriptor(_TYPE + suffix, _digest(data), len(data))

    def opened() -> BinaryIO:
        return io.BytesIO(data)

    return Layer(descriptor, diff_id or _digest(tar), opened)


class MemorySource:
    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            }
        ).encode()
        self.manifest = json.dumps([layer.descriptor for layer in layers]).encode()
        self.manifest_digest = _digest(self.manifest)

    def close(self) -> None:
        pass


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
