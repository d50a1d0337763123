"""Small images for tests: an index and its blobs, made from a mapping of paths to bytes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.index import CHUNK_BYTES, CHUNKED_FROM_BYTES, Index, Inode

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MTIME_NS", "chunk_list", "image_of", "noise"]

MTIME_NS = 1_600_000_000_123_456_789
MANIFEST = "sha256:" + "1" * 64


def noise(size_bytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def chunk_list(data: bytes) -> bytes:
    starts = range(0, len(data), CHUNK_BYTES)
    return b"".join([digest_of(data[start : start + CHUNK_BYTES]) for start in starts])


def image_of(
    files: Mapping[str, bytes], others: Mapping[str, Inode] = {}
) -> tuple[Index, dict[Digest, bytes]]:
    """`others` are entries of other kinds. Folders above are made as they are needed."""
    blobs: dict[Digest, bytes] = {}
    entries: dict[bytes, Inode] = {b"": _DIR}
    for path, data in files.items():
        entries[path.encode()] = _file(data, blobs)
    for path, inode in others.items():
        entries[path.encode()] = inode
    for path in list(entries):
        while path := path.rpartition(b"/")[0]:
            entries.setdefault(path, _DIR)
    inodes = []
    names = []
    for number, path in enumerate(sorted(entries)):
        inodes.append(entries[path])
        names.append((path, number))
    return Index(b"{}", MANIFEST, (), tuple(inodes), tuple(names)), blobs


_DIR = Inode("dir", 0o755, 0, 0, MTIME_NS)


def _file(data: bytes, blobs: dict[Digest, bytes]) -> Inode:
    inode = Inode("file", 0o644, 0, 0, MTIME_NS, len(data))
    if data:
        digest = digest_of(data)
        blobs[digest] = data
        inode = inode._replace(digest=digest)
    if len(data) > CHUNKED_FROM_BYTES:
        listed = chunk_list(data)
        blobs[digest_of(listed)] = listed
        inode = inode._replace(chunks=digest_of(listed))
    return inode
