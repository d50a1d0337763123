"""What a layer asks of the tree, as a text: so that no image with the same layer reads it again.

Owns the format. Knows neither where records are kept nor which blobs are there.

    devloop layer 1
    ["put", PATH, KIND, MODE, UID, GID, MTIME_NS, SIZE, DIGEST, TARGET, [MAJOR, MINOR], XATTRS,
     CHUNKS]                      in one line
    ["link", PATH, TARGET]
    ["hide", PATH]
    ["opaque", PATH]
    DIGEST                        BLAKE3 of all lines before

in the order of the archive. Each line is JSON; names and values are UTF-8, with bytes that are not
as lone surrogates; XATTRS are pairs, digests hexadecimal or null.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.errors import DevloopError
from devloop.cafs.index import Inode

from .flatten import Entry

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LayerRecordInvalid", "blobs_of", "decode_layer", "encode_layer"]

HEADER = "devloop layer 1"


class LayerRecordInvalid(DevloopError):
    """Not a record, or a damaged one: the layer is read again."""


def encode_layer(entries: Iterable[Entry]) -> bytes:
    lines = [HEADER, *(json.dumps(_fields(entry)) for entry in entries)]
    text = "".join(f"{line}\n" for line in lines).encode()
    return text + f"{digest_of(text).hex()}\n".encode()


def decode_layer(data: bytes) -> list[Entry]:
    """Raises LayerRecordInvalid."""
    text, _, digest = data[:-1].rpartition(b"\n")
    if digest_of(text + b"\n").hex().encode() != digest or not data.endswith(b"\n"):
        raise LayerRecordInvalid("a layer's record is damaged")
    header, *lines = text.decode().splitlines()
    if header != HEADER:
        raise LayerRecordInvalid(f'a layer\'s record of another kind, "{header[:40]}"')
    return [_entry(*json.loads(line)) for line in lines]


def blobs_of(entries: Iterable[Entry]) -> set[Digest]:
    """Of files and of their chunk lists."""
    inodes = [entry.inode for entry in entries if entry.inode is not None]
    return {d for inode in inodes for d in (inode.digest, inode.chunks) if d is not None}


def _fields(entry: Entry) -> list[Any]:
    path = _text(b"/".join(entry.path))
    if entry.inode is None:
        return [entry.kind, path, *([_text(b"/".join(entry.target))] if entry.target else [])]
    inode = entry.inode
    return [
        entry.kind,
        path,
        *(inode.kind, inode.mode, inode.uid, inode.gid, inode.mtime_ns, inode.size_bytes),
        inode.digest and inode.digest.hex(),
        _text(inode.target),
        inode.rdev,
        [(_text(name), _text(value)) for name, value in inode.xattrs],
        inode.chunks and inode.chunks.hex(),
    ]


def _entry(kind: Any, path: str, *rest: Any) -> Entry:
    parts = _parts(path)
    if kind != "put":
        return Entry(kind, parts, target=_parts(rest[0]) if rest else ())
    file_kind, mode, uid, gid, mtime_ns, size_bytes, digest, target, rdev, xattrs, chunks = rest
    inode = Inode(
        *(file_kind, mode, uid, gid, mtime_ns, size_bytes),
        Digest.fromhex(digest) if digest else None,
        _bytes(target),
        (rdev[0], rdev[1]),
        tuple([(_bytes(name), _bytes(value)) for name, value in xattrs]),
        Digest.fromhex(chunks) if chunks else None,
    )
    return Entry("put", parts, inode)


def _parts(path: str) -> tuple[bytes, ...]:
    return tuple(_bytes(path).split(b"/")) if path else ()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
