"""Blobs whose file a workspace shares: what a run may do to them, and what the store then does."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from devloop.cafs import wholefiles
from devloop.cafs.digest import digest_of
from devloop.cafs.errors import BlobCorrupt, BlobMissing, SyncFailed
from devloop.cafs.gc import collect
from devloop.cafs.store import DiskStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DATA = bytes(range(256)) * 5000
DIGEST = digest_of(DATA)
LONG_AGO_NS = 10**18


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DiskStore]:
    """On a file system that cannot clone, wherever the tests run."""
    monkeypatch.setattr(wholefiles, "clone_file", lambda *_: False)
    with DiskStore(tmp_path / "store") as store:
        yield store


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def lend(store: DiskStore, files: Path, name: str = "model.bin") -> Path | None:
    """As a workspace does: the file is its own, with its mode and its time."""
    fd = os.open(files, os.O_RDONLY)
    try:
        size_bytes = store.lend(DIGEST, fd, os.fsencode(name))
    finally:
        os.close(fd)
    if size_bytes is None:
        assert not (files / name).exists()
        return None
    assert size_bytes == len(DATA)
    path = files / name
    path.chmod(0o644)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return path


def lent_file(store: DiskStore, files: Path) -> Path:
    store.put(DIGEST, DATA)
    path = lend(store, files)
    assert path is not None
    return path


def ordinary(store: DiskStore) -> Path:
    return store.root / "blobs" / DIGEST.hex()[:2] / DIGEST.hex()[2:]


def copy(store: DiskStore, target: Path) -> bytes:
    with target.open("wb") as file:
        assert store.copy_to(DIGEST, file.fileno()) == len(DATA)
    return target.read_bytes()


def write_in_place(path: Path, data: bytes = b"by a run") -> None:
    with path.open("r+b") as file:
        file.seek(700_000)
        file.write(data)


def test_a_lent_blob_is_one_file_with_two_names_and_read_as_before(
    disk: DiskStore, files: Path, tmp_path: Path
) -> None:
    path = lent_file(disk, files)
    in_store = disk.root / "lent" / DIGEST.hex()
    assert path.read_bytes() == DATA
    assert path.samefile(in_store)
    assert not ordinary(disk).exists()
    assert disk.path_of(DIGEST) == in_store
    assert disk.get(DIGEST) == copy(disk, tmp_path / "copy") == DATA
    assert disk.read_range(DIGEST, 1000, 5) == DATA[1000:1005]
    assert disk.size_bytes(DIGEST) == len(DATA)
    assert disk.missing([DIGEST]) == []
    assert list(disk) == [DIGEST]
    assert list(disk.verify()) == []


def test_another_process_finds_what_was_lent(disk: DiskStore, files: Path) -> None:
    lent_file(disk, files)
    with DiskStore(disk.root) as again:
        assert again.get(DIGEST) == DATA
        assert lend(again, files, "another") is None


READERS: dict[str, Callable[[DiskStore, Path], object]] = {
    "get": lambda store, _: store.get(DIGEST),
    "copy": copy,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_a_run_changed_in_place_is_never_served_and_never_taken_from_it(
    disk: DiskStore, files: Path, tmp_path: Path, read: Callable[[DiskStore, Path], object]
) -> None:
    """Also where the run gives the file its old size and time."""
    path = lent_file(disk, files)
    write_in_place(path)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    changed = path.read_bytes()
    with pytest.raises(BlobCorrupt):
        read(disk, tmp_path / "copy")
    assert disk.missing([DIGEST]) == [DIGEST]
    with pytest.raises(BlobMissing):
        read(disk, tmp_path / "copy")
    assert path.read_bytes() == changed
    assert path.stat().st_nlink == 1


def test_a_check_and_a_verification_give_up_what_a_run_changed(
    disk: DiskStore, files: Path
) -> None:
    for forget in (lambda: disk.check(DIGEST), lambda: list(disk.verify())):
        write_in_place(lent_file(disk, files))
        assert not forget()
        assert disk.missing([DIGEST]) == [DIGEST]
        assert list(disk) == []
        (files / "model.bin").unlink()


def test_a_file_that_a_run_made_unreadable_counts_as_missing(
    disk: DiskStore, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lent_file(disk, files)
    real_open = os.open

    def refuse(name: str, *args: object, **options: object) -> int:
        if name == DIGEST.hex():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real_open(name, *args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:  # tests may run as root, whom no mode keeps out
        patch.setattr(os, "open", refuse)
        with pytest.raises(BlobMissing):
            disk.get(DIGEST)
    assert disk.missing([DIGEST]) == [DIGEST]
    assert path.exists()


def test_no_file_is_lent_twice(disk: DiskStore, files: Path, tmp_path: Path) -> None:
    """Also not when the workspace has deleted it: a run may still have it open."""
    path = lent_file(disk, files)
    assert lend(disk, files, "two") is None
    with path.open("r+b") as of_a_run:
        path.unlink()
        assert lend(disk, files, "three") is None
        assert copy(disk, tmp_path / "copy") == DATA
        of_a_run.write(b"!")
        of_a_run.flush()
        assert not disk.check(DIGEST)
    assert (tmp_path / "copy").read_bytes() == DATA


def test_a_blob_with_another_link_is_not_lent(disk: DiskStore, files: Path, tmp_path: Path) -> None:
    disk.put(DIGEST, DATA)
    os.link(disk.path_of(DIGEST), tmp_path / "pinned")
    assert lend(disk, files) is None
    assert ordinary(disk).exists()


def test_a_put_makes_a_file_of_its_own_and_touches_no_lent_one(
    disk: DiskStore, files: Path
) -> None:
    path = lent_file(disk, files)
    before = path.stat()
    disk.put(DIGEST, DATA)
    after = path.stat()
    assert (after.st_mtime_ns, after.st_mode) == (before.st_mtime_ns, before.st_mode)
    assert after.st_nlink == 1
    assert ordinary(disk).exists()
    write_in_place(path)
    assert disk.get(DIGEST) == DATA
    assert list(disk) == [DIGEST]
    assert lend(disk, files, "again") is not None


def test_a_corrupt_blob_is_not_lent(disk: DiskStore, files: Path) -> None:
    disk.put(DIGEST, DATA)
    path = ordinary(disk)
    path.chmod(0o600)
    write_in_place(path)
    with pytest.raises(BlobCorrupt):
        lend(disk, files)
    assert list(files.iterdir()) == []
    assert not disk.has(DIGEST)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_where_there_are_no_links_nothing_is_lent_and_nothing_changes(
    disk: DiskStore, files: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    disk.put(DIGEST, DATA)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        assert lend(disk, files) is None
    assert ordinary(disk).exists()
    assert os.listdir(disk.root / "lent") == []
    assert disk.get(DIGEST) == DATA


def test_a_taken_name_is_an_error_and_the_blob_stays(disk: DiskStore, files: Path) -> None:
    disk.put(DIGEST, DATA)
    (files / "model.bin").touch()
    with pytest.raises(FileExistsError):
        lend(disk, files)
    assert ordinary(disk).exists()
    assert disk.get(DIGEST) == DATA


def test_where_files_can_be_cloned_nothing_is_lent(
    disk: DiskStore, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.put(DIGEST, DATA)
    monkeypatch.setattr(wholefiles, "clone_file", lambda *_: True)
    assert lend(disk, files) is None
    assert not list(disk.root.glob("blobs/*/.tmp-*"))


def test_a_copy_of_a_blob_that_is_lent_meanwhile_is_hashed(
    disk: DiskStore, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader trusts a file that nobody writes to; from then on somebody may."""
    disk.put(DIGEST, DATA)
    copying = disk._files._dir.copy

    def lent_amid(*args: object) -> None:
        copying(*args)  # type: ignore[arg-type]
        path = lend(disk, files)
        assert path is not None
        write_in_place(path)

    monkeypatch.setattr(disk._files._dir, "copy", lent_amid)
    with pytest.raises(BlobCorrupt):
        copy(disk, tmp_path / "copy")
    assert disk.missing([DIGEST]) == [DIGEST]


def test_a_lent_blob_costs_nothing_until_the_workspace_gives_it_up(
    disk: DiskStore, files: Path
) -> None:
    path = lent_file(disk, files)
    (stored,) = disk.stored()
    assert stored.is_shared
    assert abs(stored.put_ns - time.time_ns()) < 60 * 10**9
    result = collect(disk, set(), limit_bytes=0, grace_s=-60)
    assert (result.removed_blobs, result.kept_bytes) == (0, 0)
    assert disk.has(DIGEST)
    path.unlink()
    assert collect(disk, {DIGEST}, limit_bytes=0, grace_s=-60).removed_blobs == 0
    assert collect(disk, set(), limit_bytes=0, grace_s=60).removed_blobs == 0
    assert collect(disk, set(), limit_bytes=0, grace_s=-60).removed_blobs == 1
    assert os.listdir(disk.root / "lent") == []


def test_a_deleted_blob_leaves_the_workspace_its_file(disk: DiskStore, files: Path) -> None:
    path = lent_file(disk, files)
    disk.delete(DIGEST)
    assert disk.missing([DIGEST]) == [DIGEST]
    assert path.read_bytes() == DATA


def test_a_blob_in_both_directories_is_the_one_that_nobody_shares(
    disk: DiskStore, files: Path
) -> None:
    """As a kill amid a put leaves it."""
    path = lent_file(disk, files)
    ordinary(disk).write_bytes(DATA)
    write_in_place(path)
    with DiskStore(disk.root) as again:
        assert again.get(DIGEST) == DATA
        assert list(again) == [DIGEST]
        again.remove_temporaries(older_than_s=0)
    assert path.stat().st_nlink == 1


@pytest.mark.parametrize("blobs", [1, 20])
def test_a_sync_flushes_what_was_lent_since_it_was_put(
    disk: DiskStore, files: Path, monkeypatch: pytest.MonkeyPatch, blobs: int
) -> None:
    path = lent_file(disk, files)
    for number in range(1, blobs):
        data = b"%d" % number + DATA
        disk.put(digest_of(data), data)
    flushed: list[int] = []

    def note(fd: int) -> bool:
        flushed.append(os.fstat(fd).st_ino)
        return False

    monkeypatch.setattr("devloop.cafs.shelf.flush_file", note)
    monkeypatch.setattr(wholefiles, "sync_filesystem", note)
    disk.sync()
    assert path.stat().st_ino in flushed
    assert (disk.root / "lent").stat().st_ino in flushed


def test_a_failed_sync_gives_up_what_was_lent_and_leaves_the_workspace_its_file(
    disk: DiskStore, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_error(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = lent_file(disk, files)
    with monkeypatch.context() as patch:
        patch.setattr("devloop.cafs.shelf.flush_file", disk_error)
        with pytest.raises(SyncFailed):
            disk.sync()
    assert disk.missing([DIGEST]) == [DIGEST]
    assert path.exists()


STEPS = ["replace", "link"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_amid_lending_leaves_a_whole_blob(
    disk: DiskStore, files: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    disk.put(DIGEST, DATA)
    real = getattr(os, step)

    class Killed(BaseException):
        pass

    def dies(*args: object, **options: object) -> None:
        if after:
            real(*args, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, step, dies)
        with pytest.raises(Killed):
            lend(disk, files)
    with DiskStore(disk.root) as again:
        assert again.get(DIGEST) == DATA
        assert list(again) == [DIGEST]
        assert list(again.verify()) == []


def test_strays_in_the_folder_of_lent_blobs_are_left_alone(tmp_path: Path) -> None:
    with DiskStore(tmp_path / "store"):
        pass
    (tmp_path / "store" / "lent" / "notes.txt").touch()
    with DiskStore(tmp_path / "store") as store:
        assert list(store) == []
