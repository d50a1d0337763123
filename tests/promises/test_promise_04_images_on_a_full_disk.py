"""Promise 4, images: a disk that fills in mid-pull is one clear line, and the next pull works."""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.cafs.oci.stack import Member, MemorySource, as_layer, tar_of

from devloop.cafs.errors import StoreFull
from devloop.cafs.images import ImageStore
from devloop.cafs.oci.ingest import ingest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.promise(4), pytest.mark.root]

SMALL_BYTES, LARGE_BYTES = 6 << 20, 48 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    mount = tmp_path / "disk"
    mount.mkdir()
    mount_tmpfs(mount, f"size={SMALL_BYTES}")
    yield mount
    subprocess.run(["umount", mount], check=True)


def mount_tmpfs(mount: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", mount], check=True)


def noise(size_bytes: int, seed: int) -> bytes:
    return hashlib.shake_256(b"%d" % seed).digest(size_bytes)


@pytest.mark.parametrize(
    "sizes", [[9 << 20], [20_000] * 500], ids=["one large file", "many small ones"]
)
def test_a_pull_that_fills_the_disk_is_one_error_and_the_next_one_works(
    disk: Path, sizes: list[int]
) -> None:
    files = [Member(b"f%d" % n, data=noise(size, n)) for n, size in enumerate(sizes)]
    source = MemorySource([as_layer(tar_of(files), "plain")])
    with ImageStore(disk / "images") as store:
        small = MemorySource([as_layer(tar_of([Member(b"a", data=b"kept")]))])
        before = store.add(ingest(small, store.blobs, store))
        with pytest.raises(StoreFull) as caught:
            store.add(ingest(source, store.blobs, store))
        assert str(disk / "images") in str(caught.value)
        assert caught.value.need_bytes > caught.value.free_bytes >= 0
        assert list(store.verify()) == []
        assert store.is_complete(before)
        mount_tmpfs(disk, f"remount,size={LARGE_BYTES}")
        index = ingest(source, store.blobs, store)
        assert store.is_complete(store.add(index))
        assert not store.missing(index)
        assert list(store.verify()) == []
