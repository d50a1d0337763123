"""Mounting images in a process that has a mount namespace of its own: what leaks, leaks there."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.erofs import write_metadata
from devloop.cafs.mount import kernel, mount_root
from devloop.cafs.mount.metadata import mount_metadata
from devloop.cafs.wholefiles import WholeFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from devloop.cafs.digest import Digest
    from devloop.cafs.index import Index, Inode
    from devloop.cafs.mount.root import LevelName

KINDS = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "chr": stat.S_IFCHR,
    "blk": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}


def _file_systems() -> str:
    path = Path("/proc/filesystems")
    return path.read_text() if path.exists() else ""


needs_mounts = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif("\terofs\n" not in _file_systems(), reason="needs EROFS"),
    pytest.mark.skipif("\toverlay\n" not in _file_systems(), reason="needs overlayfs"),
]


def alone() -> None:
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.make_private()


@contextlib.contextmanager
def namespace() -> Iterator[ProcessPoolExecutor]:
    """A process in a mount namespace of its own, which runs what is submitted."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=alone) as pool:
        yield pool


class Box:
    """Folders of a mounted image."""

    def __init__(self, base: Path, level: LevelName = "erofs+overlay") -> None:
        self.base = base
        self.level = level
        self.metadata = base / "metadata"
        self.target = base / "root"
        self.upper = base / "upper"
        self.work = base / "work"
        for path in (self.target, self.upper, self.work):
            path.mkdir(exist_ok=True)
        self.store = base / "store"

    @property
    def blobs(self) -> Path:
        return self.store / "blobs"

    def fill(self, index: Index, contents: Mapping[Digest, bytes]) -> None:
        with self.metadata.open("wb") as file:
            if self.level == "erofs+overlay":
                write_metadata(index, file)
            else:
                file.write(index.encode())
        files = WholeFiles(self.store)
        for digest, data in contents.items():
            files.put(digest, data)
        files.close()

    @contextlib.contextmanager
    def mounted(self, *, writable: bool = False, volatile: bool = False) -> Iterator[Path]:
        upper, work = (self.upper, self.work) if writable else (None, None)
        mount_root(
            *(self.level, self.metadata, self.blobs, None, upper, work, self.target),
            volatile=volatile,
        )
        try:
            yield self.target
        finally:
            kernel.unmount(str(self.target))

    @contextlib.contextmanager
    def metadata_mounted(self) -> Iterator[Path]:
        target_fd = os.open(self.target, os.O_PATH)
        mount_fd = mount_metadata(self.metadata)
        try:
            kernel.move_mount(mount_fd, target_fd)
        finally:
            os.close(target_fd)
            os.close(mount_fd)
        try:
            yield self.target
        finally:
            kernel.unmount(str(self.target))


def differences(
    root: Path, index: Index, contents: Mapping[Digest, bytes] | None, *, ignore: Iterable[str] = ()
) -> list[str]:
    """Where what is seen at `root` is not the index. Without `contents` no file is read."""
    top = os.fsencode(root)
    paths = dict(index.names)
    seen = dict(_walk(top))
    found = [
        f"{path!r}: {'unexpected' if path in seen else 'missing'}"
        for path in sorted(paths.keys() ^ seen.keys())
    ]
    inodes: dict[int, int] = {}
    for path, number in index.names:
        if path not in seen:
            continue
        inode = index.inodes[number]
        at = top + b"/" + path if path else top
        links = sum(1 for _, other in index.names if other == number)
        wanted = _wanted(inode, links)
        got = _got(at, seen[path])
        if inode.kind == "dir":
            got["nlink"] = wanted["nlink"]
        found += [
            f"{path!r}: {key} is {got[key]!r}, not {wanted[key]!r}"
            for key in wanted
            if key not in ignore and got[key] != wanted[key]
        ]
        if inodes.setdefault(number, seen[path].st_ino) != seen[path].st_ino:
            found.append(f"{path!r}: another inode than its other name")
        if contents is not None and inode.kind == "file":
            data = Path(os.fsdecode(at)).read_bytes()
            if data != (contents[inode.digest] if inode.digest else b""):
                found.append(f"{path!r}: other bytes")
    if len(set(inodes.values())) != len(inodes):
        found.append("two inodes of the index have one number")
    return found


def _walk(top: bytes, path: bytes = b"") -> Iterator[tuple[bytes, os.stat_result]]:
    at = top + b"/" + path if path else top
    status = os.lstat(at)
    yield path, status
    if stat.S_ISDIR(status.st_mode):
        for entry in os.scandir(at):
            yield from _walk(top, path + b"/" + entry.name if path else entry.name)


def _wanted(inode: Inode, links: int) -> dict[str, object]:
    target = inode.target if inode.kind == "symlink" else b""
    return {
        "mode": KINDS[inode.kind] | inode.mode,
        "uid": inode.uid,
        "gid": inode.gid,
        "mtime_ns": inode.mtime_ns,
        "size": inode.size_bytes if inode.kind != "symlink" else len(target),
        "nlink": links,
        "rdev": os.makedev(*inode.rdev) if inode.kind in ("chr", "blk") else 0,
        "target": target,
        "xattrs": inode.xattrs,
    }


def _got(at: bytes, status: os.stat_result) -> dict[str, object]:
    is_directory = stat.S_ISDIR(status.st_mode)
    is_device = stat.S_IFMT(status.st_mode) in (stat.S_IFCHR, stat.S_IFBLK)
    return {
        "mode": status.st_mode,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime_ns": status.st_mtime_ns,
        "size": 0 if is_directory else status.st_size,
        "nlink": status.st_nlink,
        "rdev": status.st_rdev if is_device else 0,
        "target": os.readlink(at) if stat.S_ISLNK(status.st_mode) else b"",
        "xattrs": xattrs_of(at),
    }


def xattrs_of(at: bytes) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    for name in sorted(map(os.fsencode, os.listxattr(at, follow_symlinks=False))):
        # A file that has no ACL may list one, and overlayfs has names for root that are its own.
        with contextlib.suppress(OSError):
            found.append((name, os.getxattr(at, name, follow_symlinks=False)))
    return tuple(found)


def outcome(action: Callable[[], object]) -> str:
    """`done`, or the name of the errno."""
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"
