"""The directory that holds a blob store: names, temporary files, renames.

Layout, version 2
    ROOT/version                "devloop blob store 2\\n"
    ROOT/blobs/ab/cdef…         one whole blob a file, mode 0444; "ab" + "cdef…" is the digest in
                                hex, mtime is when the blob was last put
    ROOT/blobs/ab/.tmp-…        a blob being written, or left by a process that was killed
    ROOT/lent/abcdef…           a blob whose file a workspace has, or had, too; see `lent`
    ROOT/packs/…                blobs of up to 64 KiB, see `packfile`
Version 1 had no packs: small blobs were whole files too. Such a store is taken over as it is, its
files are read where they are, and only the version file changes, so that an older devloop, which
would not see the packs, refuses the store.
"""

from __future__ import annotations

import errno
import os
import secrets
import sys
import time
from itertools import count
from typing import TYPE_CHECKING

from .digest import Digest
from .errors import StoreFull, StoreUnusable
from .shelf import Buffer, Shelf, write_all
from .syscalls import rename_exclusive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "PRIVATE",
    "SHARED",
    "BlobDir",
    "Buffer",
    "digest_of_name",
    "disk_full",
    "free_bytes",
    "write_all",
]

VERSION = b"devloop blob store 2\n"
PRIVATE = 0o700
SHARED = 0o777  # as far as the umask has it
_OLDER_VERSIONS = (b"devloop blob store 1\n",)
_TEMP_PREFIX = ".tmp-"
_PARENTS = tuple(f"{number:02x}" for number in range(256))
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class BlobDir(Shelf):
    def __init__(self, root: Path, *, folder_mode: int = PRIVATE) -> None:
        """Makes the store's directories unless they are there. Raises StoreUnusable."""
        self.root = root
        try:
            _ensure_layout(root, folder_mode)
            super().__init__(root / "blobs")
        except OSError as error:
            raise StoreUnusable(f"cannot use {root} as a blob store: {error.strerror}") from error
        self._temp_prefix = f"{_TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-"
        self._temp_numbers = count()

    def name_of(self, digest: Digest) -> str:
        text = digest.hex()
        return f"{text[:2]}/{text[2:]}"

    # ------------------------------------------------------------------ temporary files

    def temp_name(self, digest: Digest) -> str:
        """A name that nobody else uses, in the directory where the blob will be."""
        return f"{_PARENTS[digest[0]]}/{self._temp_prefix}{next(self._temp_numbers)}"

    def create_temp(self, temp: str) -> int:
        return os.open(temp, _CREATE, 0o444, dir_fd=self.fd)

    def write_temp(self, temp: str, data: Buffer) -> None:
        fd = self.create_temp(temp)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)

    def publish(self, temp: str, digest: Digest) -> bool:
        """Renames `temp` to the blob's name. False, and nothing done, when that is taken."""
        try:
            rename_exclusive(temp, self.name_of(digest), self.fd)
        except FileExistsError:
            return False
        return True

    def replace(self, temp: str, digest: Digest) -> bool:
        """Renames `temp` to the blob's name, whoever had it. Always True."""
        os.replace(temp, self.name_of(digest), src_dir_fd=self.fd, dst_dir_fd=self.fd)
        return True

    def remove_temporaries(self, older_than_s: float) -> int:
        newest = time.time() - older_than_s
        removed = 0
        for parent, name in self._names():
            path = f"{parent}/{name}"
            try:
                if _is_temp(name) and os.stat(path, dir_fd=self.fd).st_mtime <= newest:
                    os.unlink(path, dir_fd=self.fd)
                    removed += 1
            except FileNotFoundError:
                continue
        return removed

    # ------------------------------------------------------------------ listing

    def listing(self) -> Iterator[tuple[str, Digest | None]]:
        """Every file below `blobs` but the temporary ones; None for a name that is no digest."""
        for parent, name in self._names():
            if not _is_temp(name):
                yield f"{parent}/{name}", digest_of_name(parent + name)

    def _names(self) -> Iterator[tuple[str, str]]:
        blobs = f"{self.root}/blobs/"
        for parent in _PARENTS:
            for name in os.listdir(blobs + parent):
                yield parent, name


def free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    if not status.f_blocks:
        return sys.maxsize  # a network file system that does not say
    return status.f_bavail * status.f_frsize


def disk_full(error: OSError, path: Path, need_bytes: int) -> StoreFull | None:
    """`error` as a StoreFull when it means that the disk or quota of `path` is used up."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return StoreFull(path, need_bytes, free_bytes(path))


def _ensure_layout(root: Path, mode: int) -> None:
    blobs = root / "blobs"
    root.mkdir(mode=mode, parents=True, exist_ok=True)
    _ensure_version(root)
    (root / "lent").mkdir(mode=mode, exist_ok=True)
    blobs.mkdir(mode=mode, exist_ok=True)
    for parent in sorted(set(_PARENTS).difference(os.listdir(blobs))):
        (blobs / parent).mkdir(mode=mode, exist_ok=True)


def _ensure_version(root: Path) -> None:
    path = root / "version"
    found = path.read_bytes() if path.exists() else b""
    if found == VERSION:
        return
    # Empty is what a loss of power leaves of a file that was never synced.
    if found and found not in _OLDER_VERSIONS:
        raise StoreUnusable(
            f"the blob store at {root} is of another version: {found[:40]!r}",
            hint=f"remove {root}, or run the devloop that made it",
        )
    temp = root / f"{_TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    temp.write_bytes(VERSION)
    temp.replace(path)


def digest_of_name(text: str) -> Digest | None:
    """The digest of which `text` is the hex form; None when it is none."""
    try:
        digest = Digest.fromhex(text)
    except ValueError:
        return None
    return digest if digest.hex() == text else None


def _is_temp(name: str) -> bool:
    return name.startswith(_TEMP_PREFIX)
