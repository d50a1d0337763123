"""An image's metadata as an EROFS file system: names, inodes, xattrs, and no byte of any file.

Owns packing. `placed` says where everything goes, `format` what it looks like. Two calls with equal
indexes write equal bytes.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, BinaryIO

from devloop.cafs.digest import digest_of
from devloop.cafs.uncollected import uncollected

from .directories import encoded as encoded_directory
from .format import (
    BLOCK_BITS,
    BLOCK_BYTES,
    CHUNK_BASED,
    COMPAT_MTIME,
    FLAT_INLINE,
    FLAT_PLAIN,
    HOLE,
    INCOMPAT_CHUNKED_FILE,
    INODE,
    MAGIC,
    SUPER_OFFSET,
    SUPERBLOCK,
    chunk_format,
    device_number,
)
from .placed import Placed, place

if TYPE_CHECKING:
    from devloop.cafs.index import Index, Inode

    from .placed import Record

__all__ = ["write_metadata"]

_FILE_FORMATS = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "chr": stat.S_IFCHR,
    "blk": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}
_NS = 1_000_000_000


def write_metadata(index: Index, file: BinaryIO) -> None:
    """Writes an EROFS image, from the position of `file`, that is to lie above a data-only layer.

    A file of the index with bytes has its size, and names its blob as overlayfs wants it; it reads
    as zeros in this image alone. Raises MetadataUnwritable, and what `file.write` does.
    """
    with uncollected():
        image = _image_of(index)
    file.write(image)


def _image_of(index: Index) -> bytearray:
    placed = place(index)
    image = bytearray(placed.end_block * BLOCK_BYTES)
    for record in placed.records:
        _put(image, record, index.inodes[record.number], placed)
    at = placed.shared_block * BLOCK_BYTES
    image[at : at + placed.shared.size_bytes] = placed.shared.encoded()
    # overlayfs' `index` knows lower files by this UUID and their nids, so one set of nids has one.
    uuid = digest_of(image)[:16]
    SUPERBLOCK.pack_into(image, SUPER_OFFSET, *_superblock(placed, uuid))
    return image


def _superblock(placed: Placed, uuid: bytes) -> tuple[int | bytes, ...]:
    root_nid = placed.nids[placed.records[0].number]
    return (
        *(MAGIC, 0, COMPAT_MTIME, BLOCK_BITS, 0, root_nid, len(placed.records), 0, 0),
        *(placed.end_block, 0, placed.shared_block, uuid, b"", INCOMPAT_CHUNKED_FILE),
    )


def _put(image: bytearray, record: Record, inode: Inode, placed: Placed) -> None:
    data = _data_of(inode, record.number, placed)
    data_format, address, size_bytes = _shape_of(inode, record, data)
    seconds, ns = divmod(inode.mtime_ns, _NS)
    at = record.offset
    INODE.pack_into(
        *(image, at, data_format, record.xattrs.units, _FILE_FORMATS[inode.kind] | inode.mode, 0),
        *(size_bytes, address, record.number + 1, inode.uid, inode.gid, seconds, ns),
        placed.links[record.number],
    )
    at += INODE.size
    image[at : at + len(record.xattrs.body)] = record.xattrs.body
    at = at + len(record.xattrs.body) if record.block is None else record.block * BLOCK_BYTES
    image[at : at + len(data)] = data


def _data_of(inode: Inode, number: int, placed: Placed) -> bytes:
    """What the image holds for an inode, beside it or in blocks of its own."""
    if inode.kind == "file":
        return HOLE if inode.size_bytes else b""
    if inode.kind == "symlink":
        return inode.target
    return _directory(number, placed) if inode.kind == "dir" else b""


def _shape_of(inode: Inode, record: Record, data: bytes) -> tuple[int, int, int]:
    """Data layout, the inode's 32 bits of it, and i_size."""
    if inode.kind == "file" and inode.size_bytes:
        return CHUNK_BASED, chunk_format(inode.size_bytes), inode.size_bytes
    if inode.kind in ("chr", "blk"):
        return FLAT_PLAIN, device_number(*inode.rdev), 0
    if record.block is not None:
        return FLAT_PLAIN, record.block, len(data)
    return (FLAT_INLINE if data else FLAT_PLAIN), 0, len(data)


def _directory(number: int, placed: Placed) -> bytes:
    directory = placed.directories[number]
    entries = [(placed.nids[child], placed.types[child]) for child in directory.numbers]
    return encoded_directory(directory.shape, directory.names, entries)
