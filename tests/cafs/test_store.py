from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from devloop.cafs import packs, shelf, syscalls, wholefiles
from devloop.cafs.digest import digest_of
from devloop.cafs.errors import (
    BlobCorrupt,
    BlobMismatch,
    BlobMissing,
    StoreFull,
    StoreUnusable,
    SyncFailed,
)
from devloop.cafs.store import DiskStore

from .faults import LosesUnsynced, Passes, RunsFull, flip_byte
from .store_contract import BlobStoreContract

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from devloop.cafs.store import BlobStore

DATA = b"some bytes " * 10_000  # large: a file of its own
DIGEST = digest_of(DATA)
SMALL = DATA[:11_000]
BOTH = pytest.mark.parametrize("data", [DATA, SMALL], ids=["file", "pack"])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskStore]:
    with DiskStore(tmp_path / "store") as store:
        yield store


class TestDiskStore(BlobStoreContract):
    @pytest.fixture
    def store(self, disk: DiskStore) -> BlobStore:
        return disk


class TestDiskStoreWithoutLinuxCalls(BlobStoreContract):
    """The same store as on a Mac: no renameat2, no syncfs, no reflinks."""

    @pytest.fixture
    def store(self, disk: DiskStore, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
        monkeypatch.setattr(syscalls, "_LINUX", False)
        monkeypatch.setattr(syscalls, "_renameat2", None)
        monkeypatch.setattr(syscalls, "_syncfs", None)
        return disk


def write(store: DiskStore, data: bytes) -> None:
    with store.writer(digest_of(data), len(data)) as writer:
        writer.write(data)
        writer.commit()


@pytest.mark.parametrize("wrapper", [Passes, LosesUnsynced])
class TestWrappers(BlobStoreContract):
    @pytest.fixture
    def store(self, disk: DiskStore, wrapper: type) -> BlobStore:
        wrapped: BlobStore = wrapper(disk)
        return wrapped


def temporaries(store: DiskStore) -> list[Path]:
    return list((store.root / "blobs").glob("*/.tmp-*"))


def test_the_layout_is_the_documented_one(disk: DiskStore) -> None:
    disk.put(DIGEST, DATA)
    path = disk.root / "blobs" / DIGEST.hex()[:2] / DIGEST.hex()[2:]
    assert path == disk.path_of(DIGEST)
    assert path.read_bytes() == DATA
    assert stat.S_IMODE(path.stat().st_mode) & 0o222 == 0
    assert (disk.root / "version").read_bytes() == b"devloop blob store 2\n"
    assert stat.S_IMODE(disk.root.stat().st_mode) == 0o700


@BOTH
def test_a_store_opened_again_has_its_blobs(disk: DiskStore, data: bytes) -> None:
    disk.put(digest_of(data), data)
    disk.close()
    disk.close()
    with DiskStore(disk.root) as again:
        assert again.get(digest_of(data)) == data


def test_a_store_of_version_1_keeps_its_small_blobs_as_files(tmp_path: Path) -> None:
    small = digest_of(SMALL)
    with DiskStore(tmp_path) as store:
        path = store._files.path_of(small)
    path.write_bytes(SMALL)
    (tmp_path / "version").write_text("devloop blob store 1\n")
    with DiskStore(tmp_path) as store:
        assert store.get(small) == SMALL
        assert store.missing([small]) == []
        store.put(small, SMALL)
        assert list(store) == [small]
        assert len(list(store.stored())) == 1
        store.delete(small)
        assert store.missing([small]) == [small]
    assert (tmp_path / "version").read_text() == "devloop blob store 2\n"


def test_a_store_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("devloop blob store 3\n")
    with pytest.raises(StoreUnusable, match="another version") as caught:
        DiskStore(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert str(tmp_path) in caught.value.hint


def test_a_version_file_emptied_by_a_power_cut_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "version").touch()
    DiskStore(tmp_path).close()
    assert (tmp_path / "version").read_bytes() == b"devloop blob store 2\n"


def test_a_place_that_cannot_hold_a_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable) as caught:
        DiskStore(tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)


@BOTH
@pytest.mark.parametrize("read", ["get", "copy_to"])
def test_a_corrupt_blob_is_not_served_and_then_missing(
    disk: DiskStore, read: str, data: bytes, tmp_path: Path
) -> None:
    digest = digest_of(data)
    disk.put(digest, data)
    path = disk.path_of(digest)
    flip_byte(disk, digest, 700)
    with (tmp_path / "copy").open("wb") as file, pytest.raises(BlobCorrupt) as caught:
        disk.get(digest) if read == "get" else disk.copy_to(digest, file.fileno())
    assert str(path) in str(caught.value)
    assert disk.missing([digest]) == [digest]
    with pytest.raises(BlobMissing):
        disk.get(digest)


@BOTH
def test_a_put_heals_a_corrupt_blob(disk: DiskStore, data: bytes) -> None:
    digest = digest_of(data)
    disk.put(digest, data)
    flip_byte(disk, digest)
    disk.put(digest, data)
    assert disk.get(digest) == data
    assert temporaries(disk) == []


def test_a_copy_of_a_file_that_was_written_to_is_verified_again(
    disk: DiskStore, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 5000
    disk.put(digest_of(data), data)
    with (tmp_path / "copy").open("wb") as file:
        disk.copy_to(digest_of(data), file.fileno())
    flip_byte(disk, digest_of(data))
    with (tmp_path / "copy").open("wb") as file, pytest.raises(BlobCorrupt):
        disk.copy_to(digest_of(data), file.fileno())


def test_a_put_leaves_a_good_blob_in_place_and_makes_it_new(disk: DiskStore) -> None:
    disk.put(DIGEST, DATA)
    os.utime(disk.path_of(DIGEST), ns=(0, 0))
    before = disk.path_of(DIGEST).stat()
    disk.put(DIGEST, DATA)
    after = disk.path_of(DIGEST).stat()
    assert after.st_ino == before.st_ino
    assert after.st_mtime_ns > before.st_mtime_ns


def test_a_healed_blob_is_not_removed_by_a_reader_that_saw_the_corrupt_one(
    disk: DiskStore,
) -> None:
    disk.put(DIGEST, DATA)
    flip_byte(disk, DIGEST)
    fd = os.open(disk.path_of(DIGEST), os.O_RDONLY)
    disk.put(DIGEST, DATA)
    disk._files._dir.drop_corrupt(DIGEST, fd)
    os.close(fd)
    assert disk.get(DIGEST) == DATA


@BOTH
def test_a_blob_on_bad_sectors_counts_as_corrupt(
    disk: DiskStore, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    digest = digest_of(data)
    disk.put(digest, data)

    def bad_sector(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", bad_sector)
        patch.setattr(os, "pread", bad_sector)
        with pytest.raises(BlobCorrupt, match="cannot be read"):
            disk.get(digest)
    assert not disk.has(digest)


@BOTH
def test_a_failed_put_leaves_nothing(
    disk: DiskStore, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    digest = digest_of(data)

    def no_space(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", no_space)
        patch.setattr(os, "pwrite", no_space)
        with pytest.raises(StoreFull) as caught:
            disk.put(digest, data)
        with pytest.raises(StoreFull):
            write(disk, data)
    assert caught.value.need_bytes == len(data)
    assert str(disk.root) in str(caught.value)
    assert temporaries(disk) == []
    assert list(disk) == []
    disk.put(digest, data)
    assert disk.get(digest) == data


def test_a_blob_larger_than_the_disk_is_refused_before_it_is_sent(disk: DiskStore) -> None:
    with pytest.raises(StoreFull, match=f"{1 << 60:,} bytes needed"):
        disk.writer(DIGEST, 1 << 60)
    assert temporaries(disk) == []


def test_a_writer_takes_no_more_disk_than_was_announced(disk: DiskStore) -> None:
    with disk.writer(DIGEST, len(DATA)) as writer:
        writer.write(DATA)
        with pytest.raises(BlobMismatch):
            writer.write(b"x")
        (temporary,) = temporaries(disk)
        assert temporary.stat().st_size == len(DATA)


@BOTH
@pytest.mark.parametrize("blobs", [3, 40])
def test_a_failed_sync_is_not_retried_and_its_blobs_are_missing(
    disk: DiskStore, monkeypatch: pytest.MonkeyPatch, blobs: int, data: bytes
) -> None:
    def disk_error(*_: object) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    contents = [b"%d" % number + data for number in range(blobs)]
    digests = [digest_of(data) for data in contents]
    for digest, data in zip(digests, contents, strict=True):
        disk.put(digest, data)
    with monkeypatch.context() as patch:
        for module in (shelf, packs):
            patch.setattr(module, "flush_file", disk_error)
        patch.setattr(wholefiles, "sync_filesystem", disk_error)
        with pytest.raises(SyncFailed, match=f"{blobs} blobs"):
            disk.sync()
    assert disk.missing(digests) == digests
    for digest, data in zip(digests, contents, strict=True):
        disk.put(digest, data)
    disk.sync()
    assert disk.missing(digests) == []


def test_verify_names_what_is_wrong_and_removes_corrupt_blobs(disk: DiskStore) -> None:
    disk.put(DIGEST, DATA)
    disk.put(digest_of(b"good"), b"good")
    disk.put(digest_of(SMALL), SMALL)
    pack = disk.path_of(digest_of(SMALL))
    flip_byte(disk, DIGEST)
    flip_byte(disk, digest_of(SMALL))
    stray = disk.root / "blobs" / "ab" / "notes.txt"
    stray.touch()
    problems = {problem.path: problem.reason for problem in disk.verify()}
    assert problems == {
        disk.path_of(DIGEST): "does not hash to its name; removed",
        pack: f"blob {digest_of(SMALL).short} is damaged; removed",
        stray: "is not a blob",
    }
    assert list(disk) == [digest_of(b"good")]


def test_only_old_temporaries_are_removed(disk: DiskStore) -> None:
    old, new = (disk.root / "blobs" / "ab" / f".tmp-1-{name}" for name in ("old", "new"))
    old.touch()
    new.touch()
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    assert disk.remove_temporaries(older_than_s=1800) == 1
    assert temporaries(disk) == [new]


def test_a_refusing_wrapper_refuses_as_a_full_disk_does(disk: DiskStore) -> None:
    store = RunsFull(disk, room_bytes=5)
    store.put(digest_of(b"1234"), b"1234")
    with pytest.raises(StoreFull):
        store.put(digest_of(b"5678"), b"5678")


def test_the_modules_import_on_a_mac() -> None:
    """Without Linux's functions in the C library, nothing fails at import."""
    code = (
        "import sys, os; sys.platform = 'darwin'; "
        "[delattr(os, n) for n in ('O_PATH', 'posix_fallocate') if hasattr(os, n)]; "
        "import devloop.cafs.store, devloop.cafs.beneath, devloop.cafs.gc, devloop.cafs.tree"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
