"""Promise 2: after a power cut, what was told to be stored is there, or is found missing."""

from __future__ import annotations

import errno
import os
import random
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.errors import BlobCorrupt, BlobMissing
from devloop.cafs.packfile import RECORD_BYTES
from devloop.cafs.store import DiskStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from devloop.cafs.packs import Place

CUTS = 500 if os.environ.get("DEVLOOP_SOAK") == "1" else 60

# What a file system leaves of bytes that were written and never flushed.
TEARS: list[Callable[[bytes, int], bytes | None]] = [
    lambda data, at: data,
    lambda data, at: None,
    lambda data, at: b"",
    lambda data, at: data[:at],
    lambda data, at: bytes(len(data)),
    lambda data, at: data[:at] + bytes(len(data) - at),
    lambda data, at: bytes(at) + data[at:],
]


@pytest.mark.promise(2)
def test_promise_02_a_power_cut_serves_no_wrong_byte_and_all_is_stored_again(
    tmp_path: Path,
) -> None:
    rng = random.Random(2)
    contents = {digest_of(data): data for data in _contents(rng)}
    lost = served = 0
    for _ in range(CUTS):
        with DiskStore(tmp_path / "store") as store:
            chosen = rng.sample(sorted(contents), 12)
            durable, unsynced = chosen[:6], chosen[6:]
            for digest in unsynced:
                store.delete(digest)
            _put(store, contents, durable)
            store.sync()
            _put(store, contents, unsynced)
            _lend_some(store, unsynced, tmp_path, rng)
            places = [store.place_of(digest) for digest in unsynced]
        for digest, place in zip(unsynced, places, strict=True):
            _tear(place, contents[digest], rng)
        _tear_indexes(tmp_path / "store", rng)
        with DiskStore(tmp_path / "store") as store:
            assert [store.get(digest) for digest in durable] == [contents[d] for d in durable]
            bad = [digest for digest in unsynced if not _serves(store, digest, contents[digest])]
            assert store.missing(unsynced) == bad
            _put(store, contents, bad)  # the client sends again what is missing
            assert list(store.verify()) == []
        lost += len(bad)
        served += len(chosen) - len(bad)
    assert lost
    print(f"{CUTS} power cuts: {served} blobs intact, {lost} found missing, 0 wrong bytes served")


@pytest.mark.promise(2)
@pytest.mark.parametrize("size", [1, 100_000], ids=["pack", "file"])
def test_promise_02_a_disk_that_refuses_to_flush_is_reported_and_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """fsync says so once; asked again it would report success for pages that are gone."""
    calls = 0
    data = b"data" * size

    def fails_once(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with DiskStore(tmp_path / "store") as store:
        store.put(digest_of(data), data)
        for module in ("shelf", "packs"):
            monkeypatch.setattr(f"devloop.cafs.{module}.flush_file", fails_once)
        with pytest.raises(Exception, match="could not be made durable"):
            store.sync()
        assert calls == 1
        assert store.missing([digest_of(data)]) == [digest_of(data)]
        store.put(digest_of(data), data)
        store.sync()
        assert store.get(digest_of(data)) == data
    print("1 failed flush: 0 retried, 1 blob written again")


def _contents(rng: random.Random) -> list[bytes]:
    return [rng.randbytes(rng.choice([1, 200, 4096, 50_000, 100_000])) for _ in range(60)]


def _put(store: DiskStore, contents: dict[Digest, bytes], digests: Iterable[Digest]) -> None:
    for digest in digests:
        store.put(digest, contents[digest])


def _lend_some(store: DiskStore, digests: list[Digest], files: Path, rng: random.Random) -> None:
    directory_fd = os.open(files, os.O_RDONLY)
    for digest in digests:
        if rng.random() < 0.5 and store.lend(digest, directory_fd, digest.hex().encode()):
            (files / digest.hex()).unlink()  # the workspace's file is torn just as well
    os.close(directory_fd)


def _tear(place: Place, data: bytes, rng: random.Random) -> None:
    torn = rng.choice(TEARS)(data, rng.randrange(len(data)))
    if place.path.suffix == ".pack":
        _tear_record(place, torn, rng)
        return
    place.path.unlink()
    if torn is not None:
        place.path.write_bytes(torn)


def _tear_record(place: Place, torn: bytes | None, rng: random.Random) -> None:
    """The blob, and sometimes its header; what a file would lose at its end is zeros here."""
    with place.path.open("r+b") as pack:
        if torn is None or rng.random() < 0.2:
            pack.seek(place.offset - RECORD_BYTES)
            pack.write(bytes(RECORD_BYTES))
        if torn is not None:
            pack.seek(place.offset)
            pack.write(torn.ljust(place.size_bytes, b"\0"))


def _tear_indexes(store: Path, rng: random.Random) -> None:
    for index in store.glob("packs/*.index"):
        data = index.read_bytes()
        torn = rng.choice(TEARS)(data, rng.randrange(len(data)))
        index.unlink()
        if torn is not None:
            index.write_bytes(torn)


def _serves(store: DiskStore, digest: Digest, data: bytes) -> bool:
    try:
        got = store.get(digest)
    except (BlobMissing, BlobCorrupt):
        return False
    assert got == data
    return True
