"""Promise 3: flipped bits are found, never served, and healed from the other side."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.digest import digest_of
from devloop.cafs.errors import BlobCorrupt, BlobMissing
from devloop.cafs.packs import Place
from devloop.cafs.store import DiskStore
from devloop.cafs.tree import Dir, File, Node, Symlink, load_tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from devloop.cafs.digest import Digest

FLIPS = 2000 if os.environ.get("DEVLOOP_SOAK") == "1" else 150

SMALL, LARGE = b"print('hello')\n", bytes(range(256)) * 9000
BELOW = Node(
    {
        b"large.bin": File(0o644, len(LARGE), 1, digest_of(LARGE)),
        b"link": Symlink(b"../small.py"),
    },
    {},
)
ROOT = Node(
    {
        b"dir": Dir(0o755, BELOW.digest),
        b"small.py": File(0o755, len(SMALL), 2, digest_of(SMALL)),
    },
    {b"dir": BELOW},
)
OBJECTS = {
    "small file": SMALL,
    "large file": LARGE,
    "inner tree node": BELOW.encoded,
    "root tree node": ROOT.encoded,
}


def by_get(store: DiskStore, digest: Digest, _: Path) -> None:
    store.get(digest)


def by_copy(store: DiskStore, digest: Digest, copy: Path) -> None:
    with copy.open("wb") as file:
        store.copy_to(digest, file.fileno())


def by_verify(store: DiskStore, digest: Digest, _: Path) -> None:
    path = store.path_of(digest)
    (problem,) = store.verify()
    assert problem.path == path
    raise BlobCorrupt(problem.path, digest, problem.reason)


def by_loading_the_tree(store: DiskStore, digest: Digest, copy: Path) -> None:
    load_tree(ROOT.digest, store.get)
    by_copy(store, digest, copy)  # a tree's files are read by whoever stages it


@pytest.mark.promise(3)
@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("read", [by_get, by_copy, by_verify, by_loading_the_tree])
def test_promise_03_a_flipped_byte_is_found_never_served_and_healed(
    kind: str, read: Callable[[DiskStore, Digest, Path], None], tmp_path: Path
) -> None:
    rng = random.Random(kind)
    data = OBJECTS[kind]
    digest = digest_of(data)
    tries = max(1, FLIPS // 16)
    with DiskStore(tmp_path / "store") as store:
        for blob in OBJECTS.values():
            store.put(digest_of(blob), blob)
        for _ in range(tries):
            _flip(store.place_of(digest), rng)
            with pytest.raises(BlobCorrupt):
                read(store, digest, tmp_path / "copy")
            assert store.missing([digest]) == [digest]
            store.put(digest, data)
            assert store.get(digest) == data
            load_tree(ROOT.digest, store.get)
    print(f"{tries} flips in a {kind}, read {read.__name__}: all found, all healed")


@pytest.mark.promise(3)
@pytest.mark.parametrize("read", [by_get, by_copy])
def test_promise_03_a_flipped_byte_of_a_lent_file_is_found_never_served_and_healed(
    read: Callable[[DiskStore, Digest, Path], None], tmp_path: Path
) -> None:
    """Whoever flipped it: the disk, or a run whose workspace has the file too."""
    rng = random.Random(33)
    digest, tries = digest_of(LARGE), max(1, FLIPS // 16)
    directory_fd = os.open(tmp_path, os.O_RDONLY)
    with DiskStore(tmp_path / "store") as store:
        for number in range(tries):
            store.put(digest, LARGE)
            if store.lend(digest, directory_fd, b"%d" % number) is None:
                continue  # a file system that clones
            _flip(Place(tmp_path / str(number), 0, len(LARGE)), rng)
            with pytest.raises(BlobCorrupt):
                read(store, digest, tmp_path / "copy")
            assert store.missing([digest]) == [digest]
            assert (tmp_path / str(number)).stat().st_nlink == 1
    os.close(directory_fd)
    print(f"{tries} flips in a lent file, read {read.__name__}: all found, all healed")


def _flip(place: Place, rng: random.Random) -> None:
    place.path.chmod(0o600)
    with place.path.open("r+b") as file:
        offset = place.offset + rng.randrange(place.size_bytes)
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ rng.randrange(1, 256)]))


@pytest.mark.promise(3)
def test_promise_03_a_flipped_byte_of_a_record_or_an_index_loses_that_blob_at_most(
    tmp_path: Path,
) -> None:
    rng = random.Random(3)
    blobs = {digest_of(data): data for data in (rng.randbytes(300) for _ in range(20))}
    tries, lost = max(1, FLIPS // 5), 0
    for number in range(tries):
        with DiskStore(tmp_path / "store") as store:
            for digest, data in blobs.items():
                store.put(digest, data)
        path = rng.choice(sorted((tmp_path / "store" / "packs").iterdir()))
        if number % 2:
            (tmp_path / "store" / "packs" / "00000001.index").unlink()
            path = path.with_suffix(".pack")
        _flip(Place(path, 0, path.stat().st_size), rng)
        with DiskStore(tmp_path / "store") as store:
            lost += sum(not _serves(store, digest, data) for digest, data in blobs.items())
    assert lost <= tries
    print(f"{tries} flips in packs and their indexes: {lost} blobs found missing, 0 served wrong")


def _serves(store: DiskStore, digest: Digest, data: bytes) -> bool:
    try:
        assert store.get(digest) == data
    except (BlobMissing, BlobCorrupt):
        return False
    return True
