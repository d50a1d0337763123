"""What `umoci unpack` makes of a stack of layers, in the words of an index."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest
from tests.images.layout import Image, write_layout

from devloop.cafs.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from devloop.cafs.index import Index

__all__ = [
    "Seen",
    "Unpacked",
    "differences",
    "needs_umoci",
    "seen_in_index",
    "unpack",
    "unpack_image",
]

# Whoever made the file system that the tests run on may label every file.
_OF_THE_HOST = ("security.selinux",)


class Seen(NamedTuple):
    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size_bytes: int
    content: bytes  # a file's digest, a symbolic link's target
    rdev: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    names: tuple[bytes, ...]  # all of this file


class Unpacked(NamedTuple):
    entries: dict[bytes, Seen]
    refusal: str  # what umoci said when it would not
    began_ns: int  # a time after that is one that umoci took from the clock


def needs_umoci() -> None:
    if shutil.which("umoci") is None:
        pytest.skip("needs umoci")
    if os.geteuid() != 0:
        pytest.skip("needs root, for owners and devices")


def unpack(folder: Path, layers: Sequence[bytes]) -> Unpacked:
    """Of tars, bottom to top."""
    folder.mkdir()
    write_layout(folder / "layout", [Image(layers)])
    return unpack_image(folder, str(folder / "layout"))


def unpack_image(folder: Path, image: str) -> Unpacked:
    """`image`: LAYOUT[:TAG]. Into `folder`, which is there."""
    needs_umoci()
    began_ns = folder.stat().st_mtime_ns
    command = ["umoci", "unpack", "--image", image, str(folder / "bundle")]
    done = subprocess.run(command, capture_output=True, check=False, umask=0o022)
    if done.returncode:
        return Unpacked({}, done.stderr.decode(errors="replace"), began_ns)
    root = os.fsencode(folder / "bundle" / "rootfs")
    found = {os.path.relpath(path, root): path for path in _walk(root)}
    found = {b"" if name == b"." else name: path for name, path in found.items()}
    by_inode: dict[int, list[bytes]] = {}
    for name, path in found.items():
        by_inode.setdefault(os.lstat(path).st_ino, []).append(name)
    entries = {
        name: _seen(path, tuple(sorted(by_inode[os.lstat(path).st_ino])))
        for name, path in found.items()
    }
    return Unpacked(entries, "", began_ns)


def _walk(root: bytes) -> list[bytes]:
    paths = [root]
    for folder, directories, files in os.walk(root):
        paths += [os.path.join(folder, name) for name in directories + files]
    return paths


_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "chr",
    stat.S_IFBLK: "blk",
    stat.S_IFIFO: "fifo",
}


def _seen(path: bytes, names: tuple[bytes, ...]) -> Seen:
    s = os.lstat(path)
    kind = _KINDS[stat.S_IFMT(s.st_mode)]
    content = b""
    if kind == "file" and s.st_size:
        with open(path, "rb") as file:  # noqa: PTH123 - a name of any bytes
            content = digest_of(file.read())
    if kind == "symlink":
        content = os.readlink(path)
    xattrs = [
        (os.fsencode(name), os.getxattr(path, name, follow_symlinks=False))
        for name in os.listxattr(path, follow_symlinks=False)
        if name not in _OF_THE_HOST
    ]
    rdev = (os.major(s.st_rdev), os.minor(s.st_rdev)) if kind in ("chr", "blk") else (0, 0)
    return Seen(
        kind,
        stat.S_IMODE(s.st_mode),
        s.st_uid,
        s.st_gid,
        s.st_mtime_ns,
        s.st_size if kind == "file" else 0,
        content,
        rdev,
        tuple(sorted(xattrs)),
        names,
    )


def seen_in_index(index: Index) -> dict[bytes, Seen]:
    names: dict[int, list[bytes]] = {}
    for path, number in index.names:
        names.setdefault(number, []).append(path)
    found = {}
    for path, number in index.names:
        inode = index.inodes[number]
        content = inode.digest or inode.target
        found[path] = Seen(
            *inode[:6], content, inode.rdev, inode.xattrs, tuple(sorted(names[number]))
        )
    return found


def differences(index: Index, unpacked: Unpacked) -> list[str]:
    """Empty when both say the same. umoci leaves the time of the clock on a directory that it made
    for want of an entry, or took something out of: such a time is not compared. What it makes in a
    directory with the setgid bit, the kernel gives that bit and its group."""
    ours, theirs = seen_in_index(index), unpacked.entries
    found = [f"only umoci has {path!r}" for path in sorted(theirs.keys() - ours.keys())]
    found += [f"umoci lacks {path!r}" for path in sorted(ours.keys() - theirs.keys())]
    for path in sorted(ours.keys() & theirs.keys()):
        mine, other = ours[path], theirs[path]
        if other.kind == "dir" and other.mtime_ns >= unpacked.began_ns:
            mine = mine._replace(mtime_ns=other.mtime_ns)
            if mine.mode == 0o755 and other.mode == 0o2755:
                mine = mine._replace(mode=other.mode, gid=other.gid)
        if mine != other:
            found.append(f"{path!r}: ours {mine}, umoci's {other}")
    return found
