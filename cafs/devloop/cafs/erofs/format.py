"""EROFS on disk: the part of the format that an image's metadata needs.

Sources: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h of Linux. Everything is little
endian. Blocks have 4,096 bytes.

    offset 0      1,024 zero bytes
    1,024         superblock, 128 bytes
    1,152         inode records, each at a multiple of 32 bytes; the root's is the first
    next block    directories and link targets that are not inline, each from a block's start
    next block    shared xattrs

An inode is named by its nid = offset / 32 (`meta_blkaddr` is 0). The superblock holds the root's in
16 bits: so it comes first.

An inode record is
    64 bytes      the extended inode. The compact one, of 32, has no time of its own
    0 or more     xattrs, see `xattrs`
    0 or more     a directory's or a link's bytes (FLAT_INLINE), or block addresses (CHUNK_BASED)
An inline tail must not cross a block. Kernels before 6.8 also want an inline link target in the
block where its inode begins, so a record with an inline tail lies within one block here.

A regular file is CHUNK_BASED: its address array says -1, a hole, for its only chunk, so it has a
size and no bytes. A chunk has 4,096 << N bytes with N up to 31: 8 TiB.

A directory's blocks each hold 12 bytes an entry (nid, offset of the name in the block, kind), then
the names, then zeros. The kernel searches by bisection, first among the blocks by their first
names, then within one: names are sorted as unsigned bytes, across blocks, and `.` and `..` have no
place of their own but that of their bytes ("+" and "-" come before them). The first entry's name
offset gives the number of entries; a name ends where the next begins, the last at a zero or the end
of the block.
"""

from __future__ import annotations

from struct import Struct

__all__ = [
    "BLOCK_BITS",
    "BLOCK_BYTES",
    "CHUNK_BASED",
    "COMPAT_MTIME",
    "DIRENT",
    "FILE_TYPES",
    "FLAT_INLINE",
    "FLAT_PLAIN",
    "HOLE",
    "INCOMPAT_CHUNKED_FILE",
    "INODE",
    "INODE_BYTES",
    "MAGIC",
    "MOST_FILE_BYTES",
    "SLOT_BYTES",
    "SUPERBLOCK",
    "SUPER_BYTES",
    "SUPER_OFFSET",
    "chunk_format",
    "device_number",
    "padded",
]

BLOCK_BYTES = 4096
BLOCK_BITS = 12
SLOT_BYTES = 32
SUPER_OFFSET = 1024
SUPER_BYTES = 128

MAGIC = 0xE0F5E1E2
COMPAT_MTIME = 0x2  # inodes hold the mtime, not the ctime
INCOMPAT_CHUNKED_FILE = 0x4

# magic, checksum (unused: its feature bit is not set), compatible features, block bits, extension
# slots, root nid, inodes, build time and its ns, blocks, start of the nids, start of the shared
# xattrs, UUID, volume name, incompatible features, then fields of features that are not used.
SUPERBLOCK = Struct("<IIIBBHQQIIII16s16sI44x")

# format, xattr size, mode, (unused), size, address or device or chunk format, 32-bit inode number,
# uid, gid, mtime in s (signed) and ns, links
INODE = Struct("<HHHHQIIIIqII16x")
INODE_BYTES = INODE.size

_EXTENDED = 1
FLAT_PLAIN = _EXTENDED
FLAT_INLINE = _EXTENDED | 2 << 1
CHUNK_BASED = _EXTENDED | 4 << 1

HOLE = b"\xff\xff\xff\xff"  # in the address array
MOST_FILE_BYTES = BLOCK_BYTES << 31

DIRENT = Struct("<QHBx")
FILE_TYPES = {"file": 1, "dir": 2, "chr": 3, "blk": 4, "fifo": 5, "symlink": 7}


def chunk_format(size_bytes: int) -> int:
    """The chunk format of a file of that size (1 to MOST_FILE_BYTES): one chunk holds it."""
    return max((size_bytes - 1).bit_length() - BLOCK_BITS, 0)


def device_number(major: int, minor: int) -> int:
    """As the kernel's new_encode_dev: 12 bits of major, 20 of minor."""
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def padded(length: int, unit: int) -> int:
    """`length` rounded up to a multiple of `unit`."""
    return -(-length // unit) * unit
