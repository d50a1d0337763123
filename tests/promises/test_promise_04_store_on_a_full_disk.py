"""Promise 4, the store's part: a full disk is one clear line, leaves nothing, and retry works."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.blobdir import free_bytes
from devloop.cafs.digest import digest_of
from devloop.cafs.errors import StoreFull
from devloop.cafs.gc import collect
from devloop.cafs.store import DiskStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from devloop.cafs.digest import Digest

DISK_BYTES = 4 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if sys.platform != "linux":
        pytest.skip("needs Linux: a tmpfs of a given size")
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(mount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs tmpfs mounts: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.promise(4)
@pytest.mark.root
def test_promise_04_each_put_on_a_full_disk_names_path_need_and_free(small_disk: Path) -> None:
    data = os.urandom(100_000)
    with DiskStore(small_disk / "store") as store:
        kept = _fill(store, 100_000)
        refusals = 0
        for size_bytes in (100_000, 200_000, 3 << 20):
            data = os.urandom(size_bytes)
            with pytest.raises(StoreFull) as put_refused:
                store.put(digest_of(data), data)
            with pytest.raises(StoreFull):
                _write(store, data)
            refusals += 2
            error = put_refused.value
            assert (error.path, error.need_bytes) == (store.root, size_bytes)
            assert 0 <= error.free_bytes < size_bytes
            for part in (str(store.root), f"{size_bytes:,}", f"{error.free_bytes:,}"):
                assert part in str(error)
            assert "\n" not in str(error)
            assert not list(store.root.glob("blobs/*/.tmp-*"))
            assert not store.has(digest_of(data))
        assert list(store.verify()) == []
        assert sorted(store) == sorted(kept)
        _retry_after_freeing(store, kept)
    print(f"{refusals} refusals on a full disk: 0 files left, retry worked")


@pytest.mark.promise(4)
@pytest.mark.root
def test_promise_04_a_small_put_on_a_full_disk_leaves_nothing_and_collection_makes_room(
    small_disk: Path,
) -> None:
    refusals = 0
    with DiskStore(small_disk / "store") as store:
        kept = _fill(store, 30_000) + _fill(store, 5000)
        for size_bytes in (5000, 10_000, 65_536):
            data = os.urandom(size_bytes)
            with pytest.raises(StoreFull) as put_refused:
                store.put(digest_of(data), data)
            with pytest.raises(StoreFull):
                _write(store, data)
            refusals += 2
            assert (put_refused.value.path, put_refused.value.need_bytes) == (store.root, len(data))
            assert not store.has(digest_of(data))
        assert list(store.verify()) == []
    with DiskStore(small_disk / "store") as store:
        assert sorted(store) == sorted(kept)
        collect(store, set(), limit_bytes=100_000, grace_s=-60)
        data = os.urandom(60_000)
        store.put(digest_of(data), data)
        assert store.get(digest_of(data)) == data
        assert free_bytes(small_disk) > 3 << 20
    print(f"{refusals} refusals of small blobs: 0 half written, collection made room")


def _fill(store: DiskStore, blob_bytes: int) -> list[Digest]:
    """Puts until the disk refuses. Returns what is stored."""
    kept: list[Digest] = []
    while True:
        data = os.urandom(blob_bytes)
        try:
            store.put(digest_of(data), data)
        except StoreFull:
            return kept
        kept.append(digest_of(data))


def _write(store: DiskStore, data: bytes) -> None:
    """By a writer; told a byte count that fits, so that the writes themselves meet the end."""
    with store.writer(digest_of(data), len(data)) as writer:
        writer.write(data)
        writer.commit()


def _retry_after_freeing(store: DiskStore, kept: list[Digest]) -> None:
    for digest in list(store)[:10]:
        store.delete(digest)
    data = os.urandom(300_000)
    store.put(digest_of(data), data)
    store.sync()
    assert store.get(digest_of(data)) == data
