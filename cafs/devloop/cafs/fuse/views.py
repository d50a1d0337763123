"""What a FUSE mount looks like, as plain values computed from an index.

Two views: `BlobView` has the blobs under the names of the blob directory, `TreeView` is the image.
Refuses to know FUSE, and whether a blob is here. Inode numbers are FUSE's: 1 is the root, and none
is ever reused.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

from devloop.cafs.digest import Digest
from devloop.cafs.ids import ALL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devloop.cafs.ids import Ids
    from devloop.cafs.index import Index, Inode

__all__ = ["Attributes", "BlobView", "Content", "Contents", "TreeView", "View", "contents_of"]

_ROOT = 1
_FIRST_BLOB = _ROOT + 1 + 256
_TYPES = {
    "dir": stat.S_IFDIR,
    "file": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "chr": stat.S_IFCHR,
    "blk": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}


class Attributes(NamedTuple):
    mode: int  # with the file type
    links: int
    uid: int
    gid: int
    size_bytes: int
    mtime_ns: int
    rdev: int = 0


class Content(NamedTuple):
    """A blob with what it takes to verify pieces of it."""

    digest: Digest
    size_bytes: int
    chunks: Digest | None = None


Contents = dict[Digest, Content]


class View(Protocol):
    """Numbers that a view has given are always good; a directory's are the only ones that `find`
    and `children` take."""

    def attributes(self, number: int, /) -> Attributes: ...

    def find(self, directory: int, name: bytes, /) -> int | None: ...

    def children(self, directory: int, /) -> Sequence[tuple[bytes, int]]:
        """Always in the same order."""

    def content(self, number: int, /) -> Content | None:
        """None for what is empty or no regular file."""

    def target(self, number: int, /) -> bytes:
        """Of a symbolic link."""

    def xattrs(self, number: int, /) -> Sequence[tuple[bytes, bytes]]: ...


def contents_of(index: Index) -> Contents:
    """Every blob of the image, chunk lists too."""
    found: Contents = {}
    for inode in index.inodes:
        if inode.digest is not None:
            found[inode.digest] = Content(inode.digest, inode.size_bytes, inode.chunks)
    for digest, size_bytes in index.blobs().items():
        found.setdefault(digest, Content(digest, size_bytes))
    return found


class BlobView:
    """Directories 00 to ff, and in them the image's blobs, as `BlobDir` names them."""

    def __init__(self, contents: Contents) -> None:
        self._digests = sorted(contents)
        self._contents = contents
        self._owner = (os.geteuid(), os.getegid())

    def attributes(self, number: int) -> Attributes:
        if number < _FIRST_BLOB:
            links = 2 + 256 if number == _ROOT else 2
            return Attributes(stat.S_IFDIR | 0o555, links, *self._owner, 0, 0)
        size_bytes = self.content(number).size_bytes
        return Attributes(stat.S_IFREG | 0o444, 1, *self._owner, size_bytes, 0)

    def find(self, directory: int, name: bytes) -> int | None:
        try:
            if directory == _ROOT:
                known = len(name) == 2 and name == name.lower()
                return _ROOT + 1 + int(name, 16) if known and name.isalnum() else None
            digest = Digest.fromhex(f"{directory - _ROOT - 1:02x}{name.decode('ascii')}")
        except ValueError:
            return None
        if digest not in self._contents or digest.hex()[2:] != name.decode("ascii"):
            return None
        return _FIRST_BLOB + bisect_left(self._digests, digest)

    def children(self, directory: int) -> Sequence[tuple[bytes, int]]:
        if directory == _ROOT:
            return [(b"%02x" % byte, _ROOT + 1 + byte) for byte in range(256)]
        byte = directory - _ROOT - 1
        first = bisect_left(self._digests, bytes([byte]))
        last = bisect_left(self._digests, bytes([byte + 1])) if byte < 255 else len(self._digests)
        return [
            (self._digests[place].hex()[2:].encode(), _FIRST_BLOB + place)
            for place in range(first, last)
        ]

    def content(self, number: int) -> Content:
        return self._contents[self._digests[number - _FIRST_BLOB]]

    def target(self, number: int) -> bytes:
        raise ValueError(f"{number} is not a symbolic link")

    def xattrs(self, number: int) -> Sequence[tuple[bytes, bytes]]:
        return ()


class TreeView:
    """The whole image. The number of an inode is its place in the index, from 1: the root's is 1,
    as FUSE wants it."""

    def __init__(self, index: Index, uids: Ids = ALL, gids: Ids = ALL) -> None:
        """`uids`, `gids`: those that can be shown."""
        self._inodes = index.inodes
        self._uids, self._gids = uids, gids
        self._links = [0] * len(index.inodes)
        self._names = index.names

    @cached_property
    def _children(self) -> dict[int, dict[bytes, int]]:
        found: dict[int, dict[bytes, int]] = {}
        numbers: dict[bytes, int] = {}
        for path, place in self._names:
            number = place + 1
            if self._inodes[place].kind == "dir":
                numbers[path] = number
                found[number] = {}
                self._links[place] += 2
            else:
                self._links[place] += 1
            if path:
                parent, _, name = path.rpartition(b"/")
                found[numbers[parent]][name] = number
                if self._inodes[place].kind == "dir":
                    self._links[numbers[parent] - 1] += 1
        return found

    def attributes(self, number: int) -> Attributes:
        inode = self._inodes[number - 1]
        _ = self._children  # counts links
        return Attributes(
            _TYPES[inode.kind] | inode.mode,
            self._links[number - 1],
            self._uids.shown(inode.uid),
            self._gids.shown(inode.gid),
            len(inode.target) if inode.kind == "symlink" else inode.size_bytes,
            inode.mtime_ns,
            os.makedev(*inode.rdev),
        )

    def find(self, directory: int, name: bytes) -> int | None:
        return self._children[directory].get(name)

    def children(self, directory: int) -> Sequence[tuple[bytes, int]]:
        return list(self._children[directory].items())

    def content(self, number: int) -> Content | None:
        inode: Inode = self._inodes[number - 1]
        if inode.digest is None:
            return None
        return Content(inode.digest, inode.size_bytes, inode.chunks)

    def target(self, number: int) -> bytes:
        return self._inodes[number - 1].target

    def xattrs(self, number: int) -> Sequence[tuple[bytes, bytes]]:
        return self._inodes[number - 1].xattrs
