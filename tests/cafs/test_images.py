"""The images of one box: names, marks, collection, repair. With real files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.errors import StoreFull
from devloop.cafs.images import ImageMissing, ImageStore
from devloop.cafs.index import Index, IndexInvalid, Inode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    with ImageStore(tmp_path / "images") as store:
        yield store


def image_of(store: ImageStore, *contents: bytes, manifest: str = "sha256:" + "1" * 64) -> Index:
    """An image of one file a content, whose blobs are put."""
    root = Inode("dir", 0o755, 0, 0, 0)
    inodes, names = [root], [(b"", 0)]
    for number, data in enumerate(contents, 1):
        digest = digest_of(data)
        store.blobs.put(digest, data)
        inodes.append(Inode("file", 0o644, 0, 0, 0, len(data), digest))
        names.append((b"f%d" % number, number))
    store.blobs.sync()
    return Index(b"{}", manifest, (), tuple(inodes), tuple(names))


def test_an_image_is_found_by_its_reference_and_by_its_index(store: ImageStore) -> None:
    digest = store.add(image_of(store, b"one"))
    named = store.name("example/one:latest", "sha256:" + "1" * 64, digest)
    assert store.find("example/one:latest") == named
    assert store.of_index(digest.hex()[:12]) == store.of_index(digest.hex()) == [named]
    assert store.of_index(digest.hex()[:11]) == store.of_index("f" * 12) == []
    assert store.find("example/other:latest") is None
    assert store.index(digest).names[1][0] == b"f1"
    assert store.index_of_manifest("sha256:" + "1" * 64) == digest


def test_what_is_not_there_is_said_with_the_next_step(store: ImageStore) -> None:
    with pytest.raises(ImageMissing, match="no image nowhere:latest") as caught:
        store.get("nowhere:latest")
    assert "pull" in caught.value.hint


def test_a_reference_whose_index_is_gone_names_nothing(store: ImageStore) -> None:
    digest = store.add(image_of(store, b"one"))
    store.name("one:latest", "sha256:" + "1" * 64, digest)
    store.index_path(digest).unlink()
    assert store.find("one:latest") is None
    assert store.index_of_manifest("sha256:" + "1" * 64) is None


def test_a_collection_keeps_what_a_reference_or_a_container_needs(store: ImageStore) -> None:
    kept = store.add(image_of(store, b"shared", b"kept"))
    used = store.add(image_of(store, b"shared", b"used", manifest="sha256:" + "2" * 64))
    gone = store.add(image_of(store, b"shared", b"gone", manifest="sha256:" + "3" * 64))
    store.name("kept:latest", "sha256:" + "1" * 64, kept)
    store.name("gone:latest", "sha256:" + "3" * 64, gone)
    store.unname("gone:latest")
    removed = store.collect([used], grace_s=0)
    assert removed.removed_blobs == 1
    assert removed.removed_bytes == len(b"gone")
    assert not store.index_path(gone).exists()
    assert not store.is_complete(gone)
    assert store.missing(store.index(kept)) == store.missing(store.index(used)) == {}


def test_what_was_stored_lately_is_left_to_whoever_brings_it_in(store: ImageStore) -> None:
    image_of(store, b"on its way")
    assert store.collect(grace_s=3600).removed_blobs == 0
    assert store.blobs.has(digest_of(b"on its way"))


@pytest.mark.parametrize("offset", [0, 2])
def test_a_damaged_blob_makes_its_image_incomplete(store: ImageStore, offset: int) -> None:
    digest = store.add(image_of(store, b"one", b"two"))
    damage(store.blobs.path_of(digest_of(b"one")), offset)
    problems = list(store.verify())
    assert len(problems) == 2  # the blob, and the image that lacks it now
    assert not store.is_complete(digest)
    assert list(store.missing(store.index(digest))) == [digest_of(b"one")]
    assert list(store.verify()) == []


def test_a_damaged_index_is_dropped(store: ImageStore) -> None:
    digest = store.add(image_of(store, b"one"))
    damage(store.index_path(digest), 20)
    with pytest.raises(IndexInvalid, match="damaged"):
        store.index(digest)
    assert any("damaged" in problem for problem in store.verify())
    assert not store.index_path(digest).exists()


def test_a_lazy_index_is_no_complete_one(store: ImageStore) -> None:
    index = image_of(store, b"here")
    far = Inode("file", 0o644, 0, 0, 0, 4, Digest(b"\7" * 32))
    lazy = index._replace(inodes=(*index.inodes, far), names=(*index.names, (b"far", 2)))
    digest = store.add_lazy(lazy)
    assert not store.is_complete(digest)
    assert store.missing(store.index(digest)) == {Digest(b"\7" * 32): 4}


def test_a_full_disk_leaves_no_half_name(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    index = image_of(store, b"one")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull):
        store.add(index)
    assert list((store.root / "indexes").iterdir()) == []


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_an_index_that_comes_again_is_not_complete_by_an_old_mark(store: ImageStore) -> None:
    """A file server may have outlived the index, and have marked it while it was dropped."""
    index = image_of(store, b"one")
    digest = store.add(index)
    store.index_path(digest).unlink()
    store.add_lazy(index)
    assert not store.is_complete(digest)
