"""An image as a plain copy: with all its metadata, and beneath its folder."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from tests.cafs.faults import flip_byte_at
from tests.cafs.image_trees import (
    ON_EXT4,
    contents_of,
    directory,
    file,
    index_of,
    special,
    symlink,
    trees,
)
from tests.cafs.mounting import differences

from devloop.cafs.digest import digest_of
from devloop.cafs.errors import BlobCorrupt, BlobMissing, StoreFull
from devloop.cafs.mount import unpack
from devloop.cafs.wholefiles import WholeFiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from devloop.cafs.digest import Digest
    from devloop.cafs.errors import Problem
    from devloop.cafs.index import Index

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[WholeFiles]:
    files = WholeFiles(tmp_path / "store")
    yield files
    files.close()


def put(blobs: WholeFiles, contents: Mapping[Digest, bytes]) -> None:
    for digest, data in contents.items():
        blobs.put(digest, data)


def unpack_to(target: Path, index: Index, blobs: WholeFiles) -> list[Problem]:
    target.mkdir()
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return unpack(index, blobs, fd)
    finally:
        os.close(fd)


@AS_ROOT
@settings(max_examples=15)
@given(index=trees(ON_EXT4))
def test_a_copy_of_any_image_is_as_its_index_says(index: Index) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = WholeFiles(Path(folder) / "store")
        put(files, contents_of(index))
        assert unpack_to(Path(folder) / "copy", index, files) == []
        files.close()
        assert differences(Path(folder) / "copy", index, contents_of(index)) == []


@AS_ROOT
def test_file_capabilities_and_setuid_bits_survive_the_change_of_owner(
    tmp_path: Path, blobs: WholeFiles
) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    inode = file(b"data", 0o6755, uid=5, gid=6, xattrs=((b"security.capability", capability),))
    index = index_of({b"tool": inode, b"again": b"tool", b"closed/in": file(b"")})
    index = index._replace(
        inodes=tuple(
            inode._replace(mode=0o500) if inode.kind == "dir" else inode for inode in index.inodes
        )
    )
    put(blobs, {digest_of(b"data"): b"data"})
    assert unpack_to(tmp_path / "copy", index, blobs) == []
    assert differences(tmp_path / "copy", index, {digest_of(b"data"): b"data"}) == []


@AS_ROOT
def test_a_device_that_means_deleted_is_left_out(tmp_path: Path, blobs: WholeFiles) -> None:
    index = index_of({b"gone": special("chr", (0, 0)), b"null": special("chr", (1, 3))})
    assert unpack_to(tmp_path / "copy", index, blobs) == []
    assert os.listdir(tmp_path / "copy") == ["null"]


@AS_ROOT
def test_who_is_not_root_gets_all_but_devices_and_owners(tmp_path: Path) -> None:
    index = index_of(
        {
            b"null": special("chr", (1, 3)),
            b"pipe": special("fifo"),
            b"tool": file(b"data", 0o4711, uid=5, xattrs=((b"trusted.a", b"1"), (b"user.b", b"2"))),
            b"link": symlink(b"/tool"),
        }
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        os.chown(folder, NOBODY, NOBODY)
        pid = os.fork()
        if not pid:
            os._exit(_unpack_as_nobody(Path(folder), index))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        copy = Path(folder) / "copy"
        assert sorted(os.listdir(copy)) == ["link", "pipe", "tool"]
        tool = (copy / "tool").stat()
        assert (tool.st_uid, tool.st_mode & 0o7777, tool.st_mtime_ns) == (
            *(NOBODY, 0o4711),
            index.inodes[-1].mtime_ns,
        )
        assert os.listxattr(copy / "tool") == ["user.b"]


def _unpack_as_nobody(folder: Path, index: Index) -> int:
    """0 if only the device was told."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    files = WholeFiles(folder / "store")
    files.put(digest_of(b"data"), b"data")
    problems = unpack_to(folder / "copy", index, files)
    return int([str(problem) for problem in problems] != ["null: only root may make a device node"])


def test_a_blob_that_is_missing_or_flipped_is_named(tmp_path: Path, blobs: WholeFiles) -> None:
    index = index_of({b"a": file(b"data", uid=os.geteuid(), gid=os.getegid())})
    with pytest.raises(BlobMissing, match=digest_of(b"data").short):
        unpack_to(tmp_path / "one", index, blobs)
    blobs.put(digest_of(b"data"), b"data")
    flip_byte_at(blobs.path_of(digest_of(b"data")), 2)
    with pytest.raises(BlobCorrupt, match=digest_of(b"data").short):
        unpack_to(tmp_path / "two", index, blobs)


def test_what_is_in_the_way_is_not_overwritten(tmp_path: Path, blobs: WholeFiles) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "copy"
    target.mkdir()
    (target / "d").symlink_to(outside)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(FileExistsError):
        unpack(index_of({b"d": directory(), b"d/file": file(b"")}), blobs, fd)
    os.close(fd)
    assert os.listdir(outside) == []


@AS_ROOT
def test_a_full_disk_is_one_error_that_names_place_and_need(
    tmp_path: Path, blobs: WholeFiles
) -> None:
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("needs root")
    data = bytes(3 << 20)
    put(blobs, {digest_of(data): data})
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=True)
    try:
        with pytest.raises(StoreFull, match=r"3,145,728 bytes needed, [0-9,]+ free") as raised:
            unpack_to(small / "copy", index_of({b"large": file(data)}), blobs)
        assert raised.value.path == small / "copy"
    finally:
        subprocess.run(["umount", small], check=True)
