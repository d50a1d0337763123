"""An image as plain files: a copy on disk, where it cannot be mounted, or its metadata alone, where
the kernel has no EROFS."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cafs.beneath import Root
from devloop.cafs.blobdir import disk_full, free_bytes
from devloop.cafs.erofs import blob_path, escaped, is_whiteout
from devloop.cafs.errors import Problem
from devloop.cafs.ids import ids_here

if TYPE_CHECKING:
    from devloop.cafs.digest import Digest
    from devloop.cafs.index import Index, Inode
    from devloop.cafs.wholefiles import WholeFiles

__all__ = ["unpack", "write_tree"]

_OF_USERS = b"user."  # attributes that not only root may set
_METACOPY, _REDIRECT = b"overlay.metacopy", b"overlay.redirect"


def unpack(index: Index, blobs: WholeFiles, target_fd: int) -> list[Problem]:
    """Copies an image into the empty directory `target_fd`, with all its metadata.

    No path leads out of the directory, whoever changes it meanwhile (`beneath`). Every blob is
    verified while it is copied. What could not be made is left out and returned: device nodes, and
    attributes that the file system does not have. Who is not root owns everything himself, and sets
    only attributes of users; in a user namespace root owns what is owned by who does not exist
    there (`ids`). What overlayfs would obey is escaped for it. A device 0/0 is left out, as every
    overlay does.

    Raises BlobMissing, BlobCorrupt, StoreFull, and OSError (FileExistsError if something is there);
    an unfinished copy is of no use.
    """
    folder = Path(os.readlink(f"/proc/self/fd/{target_fd}"))
    with Root(Path(f"/proc/self/fd/{target_fd}")) as root:
        copy = _Copy(root, target_fd, folder, index, blobs)
        try:
            copy.make()
        except OSError as error:
            raise disk_full(error, folder, copy.left_bytes) or error from error
    return copy.problems


def write_tree(index: Index, target_fd: int) -> None:
    """As `unpack`, but that files have their size and no bytes: each names its blob as overlayfs
    wants it, for a directory that is to lie above a data-only layer. For root, of a user namespace
    too.

    Raises OSError.
    """
    with Root(Path(f"/proc/self/fd/{target_fd}")) as root:
        _Tree(root, target_fd, Path(f"/proc/self/fd/{target_fd}"), index).make()


class _Tree:
    """Files without bytes."""

    def __init__(self, root: Root, target_fd: int, folder: Path, index: Index) -> None:
        self._root = root
        self._target_fd = target_fd
        self._folder = folder
        self._index = index
        self._is_root = os.geteuid() == 0
        self._uids, self._gids = ids_here("uid"), ids_here("gid")
        # Where overlayfs looks with the option `userxattr`, and without.
        self._namespace = b"trusted." if self._uids.are_all else b"user."
        self.left_bytes = sum(inode.size_bytes for inode in index.inodes)
        self.problems: list[Problem] = []

    def make(self) -> None:
        """Directories get their metadata last, from the innermost out: what is made in one changes
        its time, and one that is not writable may have children."""
        firsts: dict[int, bytes] = {}
        directories = []
        for path, number in self._index.names:
            inode = self._index.inodes[number]
            if inode.kind == "dir":
                directories.append((path, inode))
                if path:
                    self._root.mkdir(path, 0o700)
            elif number in firsts:
                self._link(firsts[number], path)
            elif self._make(path, inode):
                firsts[number] = path
        for path, inode in reversed(directories):
            self._finish(path, inode)

    def _make(self, path: bytes, inode: Inode) -> bool:
        """False for one that is left out."""
        if is_whiteout(inode):
            return False
        if inode.kind == "file":
            self._make_file(path, inode)
        elif inode.kind == "symlink":
            self._root.symlink(inode.target, path)
        elif not self._make_special(path, inode):
            return False
        self._finish(path, inode)
        self.left_bytes -= inode.size_bytes
        return True

    def _make_file(self, path: bytes, inode: Inode) -> None:
        fd = self._root.create(path)
        try:
            if inode.digest is not None:
                self._fill(fd, inode.digest, inode.size_bytes)
        finally:
            os.close(fd)

    def _fill(self, fd: int, digest: Digest, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)
        os.setxattr(fd, self._namespace + _METACOPY, b"")
        os.setxattr(fd, self._namespace + _REDIRECT, blob_path(digest))

    def _make_special(self, path: bytes, inode: Inode) -> bool:
        kind = {"fifo": stat.S_IFIFO, "chr": stat.S_IFCHR, "blk": stat.S_IFBLK}[inode.kind]
        parent_fd, name = self._root.parent(path)
        try:
            os.mknod(name, 0o600 | kind, os.makedev(*inode.rdev), dir_fd=parent_fd)
        except PermissionError:
            self._problem(path, "only root may make a device node")
            return False
        return True

    def _link(self, first: bytes, path: bytes) -> None:
        source_fd, source = self._root.parent(first)
        # This second call opens one directory at most, so it cannot evict the first.
        target_fd, target = self._root.parent(path)
        os.link(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)

    def _finish(self, path: bytes, inode: Inode) -> None:
        if not path:
            self._describe(f"/proc/self/fd/{self._target_fd}", path, inode)
            return
        parent_fd, name = self._root.parent(path)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent_fd)
        try:
            # By its descriptor, so that all of this is about one inode, be it a link.
            self._describe(f"/proc/self/fd/{fd}", path, inode)
        finally:
            os.close(fd)

    def _describe(self, at: str, path: bytes, inode: Inode) -> None:
        """Owner first: a change of it drops setuid bits and file capabilities. Time last."""
        if self._is_root:
            os.chown(at, self._uids.shown(inode.uid), self._gids.shown(inode.gid))
        if inode.kind != "symlink":
            os.chmod(at, inode.mode)
        for name, value in inode.xattrs:
            if self._is_root or name.startswith(_OF_USERS):
                self._set_xattr(at, path, name, value)
        os.utime(at, ns=(inode.mtime_ns, inode.mtime_ns))

    def _set_xattr(self, at: str, path: bytes, name: bytes, value: bytes) -> None:
        try:
            os.setxattr(at, escaped(name), value)
        except OSError as error:
            # An inode has little room for them on ext4: the disk need not be full.
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and not free_bytes(self._folder):
                raise
            self._problem(path, f"{os.fsdecode(name)}: {error.strerror}")

    def _problem(self, path: bytes, reason: str) -> None:
        self.problems.append(Problem(Path(os.fsdecode(path)), reason))


class _Copy(_Tree):
    def __init__(
        self, root: Root, target_fd: int, folder: Path, index: Index, blobs: WholeFiles
    ) -> None:
        super().__init__(root, target_fd, folder, index)
        self._blobs = blobs

    def _fill(self, fd: int, digest: Digest, size_bytes: int) -> None:
        self._blobs.copy_to(digest, fd)
