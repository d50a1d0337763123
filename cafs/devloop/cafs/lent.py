"""Blobs whose file a workspace has too: one inode, so that a large file is written once.

Owns the folder `lent`, how a file moves there, and what may be believed of it. Refuses to know what
a workspace is: it links a file into a directory that it is given.

From the moment it is lent a file belongs to the workspace as well. Runs may change its bytes, its
times and its mode, also through descriptors that outlive its name there. So
    a blob is in `blobs`, where nobody else has its inode, or here, and never goes back;
    it is hashed whenever it is read, and its bytes are used only as they were hashed;
    one that mismatches loses its name here, never the workspace's: it counts as missing;
    it is lent once. Whoever wants it next gets a copy, so that no two workspaces share a file;
    nothing here touches its times and mode: the workspace tells by them what changed on the box;
    when it was put is told by its ctime, which no write leaves as it was.
A blob that is put again comes back to `blobs` as a new file, and gives up the one here.

Killed at any point, a blob has its name in `blobs` or here, or both amid a put, and is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from .blobdir import digest_of_name
from .errors import BlobMissing
from .shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .blobdir import BlobDir
    from .digest import Digest

__all__ = ["LentFiles"]

# Of a link: the file system has none, or no more for this file, or another process took it away.
_NO_LINK = frozenset(
    {errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT}
)


class LentFiles(Shelf):
    """What other processes lend meanwhile is seen once it is opened again."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError."""
        super().__init__(directory)
        names = map(digest_of_name, os.listdir(directory))
        # Most questions are for blobs that were never lent: those cost no system call.
        self._digests = {digest for digest in names if digest is not None}

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._digests and self.has(digest)

    def __iter__(self) -> Iterator[Digest]:
        return iter(list(self._digests))

    def open(self, digest: Digest) -> int:
        if digest not in self._digests:
            raise BlobMissing(digest)
        try:
            return super().open(digest)
        except PermissionError:  # a run has taken away the right to read it
            self.delete(digest)
            raise BlobMissing(digest) from None

    def lstat(self, digest: Digest) -> os.stat_result:
        if digest not in self._digests:
            raise BlobMissing(digest)
        return super().lstat(digest)

    def delete(self, digest: Digest) -> None:
        if digest in self._digests:
            super().delete(digest)
            self._digests.discard(digest)

    def lend(self, digest: Digest, blobs: BlobDir, directory_fd: int, name: bytes) -> bool:
        """Moves the verified blob here, and links it as `name` into that directory.

        False, and nothing done, where there are no links, or the blob is gone. The caller sees to
        it that nothing else moves the blob meanwhile.
        """
        here, there = self.name_of(digest), blobs.name_of(digest)
        try:
            os.replace(there, here, src_dir_fd=blobs.fd, dst_dir_fd=self.fd)
        except FileNotFoundError:
            return False
        self._digests.add(digest)
        try:
            os.link(here, name, src_dir_fd=self.fd, dst_dir_fd=directory_fd, follow_symlinks=False)
        except OSError as error:
            self._take_back(digest, blobs)
            if error.errno in _NO_LINK:
                return False
            raise
        if self._has_other_links(here):
            os.unlink(name, dir_fd=directory_fd)
            return False
        return True

    def _take_back(self, digest: Digest, blobs: BlobDir) -> None:
        """Nobody has had the file yet, so it may go back."""
        here, there = self.name_of(digest), blobs.name_of(digest)
        self._digests.discard(digest)
        with contextlib.suppress(FileNotFoundError):
            os.replace(here, there, src_dir_fd=self.fd, dst_dir_fd=blobs.fd)

    def _has_other_links(self, here: str) -> bool:
        """Has another process lent the same blob between our two steps?"""
        try:
            return os.stat(here, dir_fd=self.fd, follow_symlinks=False).st_nlink != 2
        except FileNotFoundError:
            return True
