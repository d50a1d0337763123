"""The EROFS image of an index: what the kernel sees in it is the index."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from tests.cafs.image_trees import directory, file, index_of, special, symlink, trees
from tests.cafs.mounting import Box, differences, namespace, needs_mounts, xattrs_of

from devloop.cafs.digest import digest_of
from devloop.cafs.erofs import MetadataUnwritable, blob_path, write_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import ProcessPoolExecutor

    from devloop.cafs.index import Index

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
OF_OVERLAY = (
    (b"trusted.overlay.metacopy", b""),
    (b"trusted.overlay.redirect", blob_path(digest_of(b"data"))),
)


def image_of(index: Index) -> bytes:
    image = io.BytesIO()
    write_metadata(index, image)
    return image.getvalue()


@pytest.fixture(scope="module")
def apart() -> Iterator[ProcessPoolExecutor]:
    with namespace() as pool:
        yield pool


def seen_by_the_kernel(base: Path, index: Index) -> list[str]:
    box = Box(base)
    box.fill(index, {})
    with box.metadata_mounted() as root:
        return differences(root, index, None, ignore=["xattrs"])


def check(apart: ProcessPoolExecutor, base: Path, index: Index) -> None:
    assert apart.submit(seen_by_the_kernel, base, index).result() == []


def fsck(image: bytes, base: Path) -> None:
    if shutil.which("fsck.erofs") is None:
        return
    path = base / "fsck.erofs"
    path.write_bytes(image)
    done = subprocess.run(["fsck.erofs", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------------- pure


def test_the_same_index_gives_the_same_bytes() -> None:
    index = index_of({b"a/b": file(b"data"), b"c": symlink(b"a/b")})
    assert image_of(index) == image_of(index)
    assert len(image_of(index)) % 4096 == 0


def test_another_mtime_gives_another_uuid() -> None:
    one, other = (image_of(index_of({b"a": file(b"x", mtime_ns=ns)})) for ns in (1, 2))
    assert one[1024 + 48 :][:16] != other[1024 + 48 :][:16]


def test_a_file_of_more_than_8_tib_is_refused() -> None:
    inode = file(b"data")._replace(size_bytes=(8 << 40) + 1)
    with pytest.raises(MetadataUnwritable, match="8 TiB"):
        image_of(index_of({b"a": inode}))
    image_of(index_of({b"a": inode._replace(size_bytes=8 << 40)}))


def test_more_xattrs_than_an_inode_can_have_are_refused() -> None:
    many = tuple((b"user.%d" % number, bytes(1000)) for number in range(300))
    with pytest.raises(MetadataUnwritable, match="extended attributes"):
        image_of(index_of({b"a": file(b"data", xattrs=many)}))


# ---------------------------------------------------------------------- seen by the kernel


class TestSeenByTheKernel:
    pytestmark = needs_mounts

    @settings(max_examples=30)
    @given(index=trees())
    def test_any_tree_is_seen_as_it_is_in_the_index(
        self, apart: ProcessPoolExecutor, index: Index
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            check(apart, Path(folder), index)
            fsck(image_of(index), Path(folder))

    @pytest.mark.parametrize("names", [1, 300, 5000])
    def test_a_directory_of_many_long_names_is_searched_right(
        self, apart: ProcessPoolExecutor, tmp_path: Path, names: int
    ) -> None:
        tree = {
            b"d/" + (b"%d" % number) * 40 + b"x": file(b"%d" % number) for number in range(names)
        }
        tree |= {b"d/" + bytes([byte]): file(b"") for byte in range(1, 256) if byte not in b"/."}
        check(apart, tmp_path, index_of(tree))

    @pytest.mark.parametrize("length", [1, 3900, 3967, 3968, 4032, 4033, 4095])
    def test_a_link_target_of_any_length_is_read_back(
        self, apart: ProcessPoolExecutor, tmp_path: Path, length: int
    ) -> None:
        links = {b"l%d" % number: symlink(b"t" * length) for number in range(3)}
        index = index_of({**links, b"z": file(b"data")})
        check(apart, tmp_path, index)
        fsck(image_of(index), tmp_path)

    @pytest.mark.parametrize("extra", range(2, 80, 7))
    def test_a_directory_is_found_whether_or_not_its_entries_fit_beside_its_inode(
        self, apart: ProcessPoolExecutor, tmp_path: Path, extra: int
    ) -> None:
        names = [b"%02d" % number + b"n" * 186 for number in range(19)] + [b"x" * extra]
        check(apart, tmp_path, index_of({b"d/" + name: file(b"1") for name in names}))

    @pytest.mark.parametrize("mtime_ns", [-1, 0, -(2**63), 2**63 - 1, 999_999_999])
    def test_a_time_is_exact(
        self, apart: ProcessPoolExecutor, tmp_path: Path, mtime_ns: int
    ) -> None:
        check(apart, tmp_path, index_of({b"a": file(b"", mtime_ns=mtime_ns)}))

    def test_sizes_and_devices_are_exact(self, apart: ProcessPoolExecutor, tmp_path: Path) -> None:
        sizes = [1, 4095, 4096, 4097, 1 << 32, (1 << 40) + 1, 8 << 40]
        tree = {b"%d" % size: file(b"data")._replace(size_bytes=size) for size in sizes}
        tree |= {
            b"chr": special("chr", (1, 3)),
            b"large": special("blk", (4095, (1 << 20) - 1)),
            b"fifo": special("fifo"),
        }
        check(apart, tmp_path, index_of(tree))

    def test_many_names_of_one_file_are_its_link_count(
        self, apart: ProcessPoolExecutor, tmp_path: Path
    ) -> None:
        tree = {b"d%d/again" % number: b"first" for number in range(100)}
        check(apart, tmp_path, index_of({b"first": file(b"data"), **tree}))

    def test_xattrs_small_and_large_lie_where_the_kernel_finds_them(
        self, apart: ProcessPoolExecutor, tmp_path: Path
    ) -> None:
        given_xattrs = (
            (b"security.capability", CAPABILITY),
            (b"trusted.large", b"L" * 65535),
            (b"trusted.small", b""),
            (b"user." + b"n" * 250, b"value"),
            *((b"user.large%02d" % number, b"%02d" % number * 700) for number in range(40)),
        )
        inode = file(b"data", xattrs=given_xattrs)
        index = index_of({b"a": inode, b"b": inode._replace(uid=1), b"d": directory()})
        box = Box(tmp_path)
        got = apart.submit(_xattrs_in_metadata, box, index, [b"a", b"b", b"d"]).result()
        assert got == [tuple(sorted((*given_xattrs, *OF_OVERLAY)))] * 2 + [()]
        assert len(image_of(index)) < 2 * 65535 + (60 << 10)  # a value that two have is stored once

    def test_attributes_of_overlayfs_in_an_image_are_escaped(
        self, apart: ProcessPoolExecutor, tmp_path: Path
    ) -> None:
        inode = directory(xattrs=((b"trusted.overlay.opaque", b"y"),))
        got = apart.submit(_xattrs_in_metadata, Box(tmp_path), index_of({b"d": inode}), [b"d"])
        assert got.result() == [((b"trusted.overlay.overlay.opaque", b"y"),)]


def _xattrs_in_metadata(box: Box, index: Index, paths: list[bytes]) -> list[object]:
    box.fill(index, {})
    with box.metadata_mounted() as root:
        return [xattrs_of(bytes(root) + b"/" + path) for path in paths]
