"""Which inodes of an index an EROFS image holds, in which order, and where each begins.

Decides everything that must be known before a byte is written; `writer` packs it.

A directory's children are neighbours, since who lists a directory asks for them next. The root
comes first: the superblock has 16 bits for its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .directories import Shape, shape_of
from .format import (
    BLOCK_BYTES,
    FILE_TYPES,
    HOLE,
    INODE_BYTES,
    MOST_FILE_BYTES,
    SLOT_BYTES,
    SUPER_BYTES,
    SUPER_OFFSET,
    padded,
)
from .xattrs import MetadataUnwritable, SharedArea, Xattrs, encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devloop.cafs.index import Index, Inode

__all__ = ["Directory", "Placed", "Record", "is_whiteout", "place"]


class Directory(NamedTuple):
    names: tuple[bytes, ...]  # sorted, with `.` and `..`
    numbers: tuple[int, ...]  # the inodes of `names`
    shape: Shape


class Record(NamedTuple):
    """An inode's place."""

    number: int  # in the index
    offset: int
    xattrs: Xattrs
    block: int | None  # where its bytes are; None: beside it, after the xattrs


class Placed(NamedTuple):
    directories: dict[int, Directory]  # by inode number
    links: Sequence[int]  # by inode number, as lstat counts them
    types: Sequence[int]  # by inode number, as directories have them
    records: list[Record]  # by offset
    nids: dict[int, int]  # by inode number
    shared: SharedArea
    shared_block: int
    end_block: int


def place(index: Index) -> Placed:
    """Raises MetadataUnwritable."""
    links, directories = _directories(index)
    shared = SharedArea()
    records, block = _records(index.inodes, directories, shared)
    nids = {record.number: record.offset // SLOT_BYTES for record in records}
    end_block = block + padded(shared.size_bytes, BLOCK_BYTES) // BLOCK_BYTES
    types = [FILE_TYPES[inode.kind] for inode in index.inodes]
    return Placed(directories, links, types, records, nids, shared, block, end_block)


def is_whiteout(inode: Inode) -> bool:
    """A device 0/0 means "deleted" to overlayfs, in any layer, and none can be made in an overlay.
    So nobody can see one in an image's root; it is left out, and hides nothing."""
    return inode.kind == "chr" and inode.rdev == (0, 0)


def _directories(index: Index) -> tuple[list[int], dict[int, Directory]]:
    inodes = index.inodes
    links = [0] * len(inodes)
    root = index.names[0][1]
    at = {b"": root}
    entries: dict[int, list[tuple[bytes, int]]] = {root: [(b".", root), (b"..", root)]}
    for path, number in index.names[1:]:
        inode = inodes[number]
        if is_whiteout(inode):
            continue
        above, _, name = path.rpartition(b"/")
        parent = at[above]
        entries[parent].append((name, number))
        links[number] += 1
        if inode.kind == "dir":
            at[path] = number
            entries[number] = [(b".", number), (b"..", parent)]
            links[parent] += 1
    for number in entries:
        links[number] += 1  # its own `.`
    links[root] += 1  # and `..`
    return links, {number: _directory(found) for number, found in entries.items()}


def _directory(entries: list[tuple[bytes, int]]) -> Directory:
    entries.sort()
    names, numbers = zip(*entries, strict=True)
    return Directory(names, numbers, shape_of(names))


def _records(
    inodes: Sequence[Inode], directories: dict[int, Directory], shared: SharedArea
) -> tuple[list[Record], int]:
    """In order, and the first block after what they name."""
    records: list[Record] = []
    outside = []  # (record, size) where the bytes do not fit beside the inode
    offset = SUPER_OFFSET + SUPER_BYTES
    for number in _in_order(directories):
        inode = inodes[number]
        xattrs = encoded(inode.xattrs, shared, inode.digest)
        size_bytes = _size_of(inode, directories.get(number))
        record_bytes = INODE_BYTES + len(xattrs.body) + size_bytes
        if record_bytes > BLOCK_BYTES and inode.kind in ("dir", "symlink"):
            outside.append((len(records), size_bytes))
            record_bytes -= size_bytes
        elif size_bytes and offset % BLOCK_BYTES + record_bytes > BLOCK_BYTES:
            offset = padded(offset, BLOCK_BYTES)
        records.append(Record(number, offset, xattrs, None))
        offset = padded(offset + record_bytes, SLOT_BYTES)
    return records, _give_blocks(records, outside, padded(offset, BLOCK_BYTES) // BLOCK_BYTES)


def _give_blocks(records: list[Record], outside: list[tuple[int, int]], block: int) -> int:
    for at, size_bytes in outside:
        records[at] = records[at]._replace(block=block)
        block += padded(size_bytes, BLOCK_BYTES) // BLOCK_BYTES
    return block


def _size_of(inode: Inode, directory: Directory | None) -> int:
    """The bytes that the image itself holds for an inode."""
    if directory is not None:
        return directory.shape.size_bytes
    if inode.size_bytes > MOST_FILE_BYTES:
        raise MetadataUnwritable(f"a file has {inode.size_bytes:,} bytes, more than 8 TiB")
    return len(HOLE) if inode.size_bytes else len(inode.target)


def _in_order(directories: dict[int, Directory]) -> dict[int, None]:
    """Inode numbers: the root's, then directory by directory what is not placed yet."""
    order: dict[int, None] = {}
    for number, directory in directories.items():
        order.setdefault(number)
        order.update(dict.fromkeys(directory.numbers))
    return order
