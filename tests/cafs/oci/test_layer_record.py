"""A layer that is known is not read again, and what is known of it is what it holds."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from tests.cafs.oci.stack import Member, MemorySource, as_layer, tar_of

from devloop.cafs.digest import digest_of
from devloop.cafs.images import ImageStore
from devloop.cafs.index import Inode
from devloop.cafs.oci.flatten import Entry
from devloop.cafs.oci.ingest import ingest
from devloop.cafs.oci.layer_record import (
    LayerRecordInvalid,
    blobs_of,
    decode_layer,
    encode_layer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from devloop.cafs.oci.source import Layer

LARGE = bytes(range(256)) * 20_000
BASE = [
    Member(b"etc/", b"5", mode=0o755),
    Member(b"etc/hosts", data=b"127.0.0.1\n", uid=7),
    Member(b"etc/large", data=LARGE),
    Member(b"etc/link", b"2", link=b"h\xffsts"),
    Member(b"etc/same", b"1", link=b"etc/hosts"),
]
TOP = [Member(b"etc/.wh.hosts"), Member(b"app/main.py", data=b"print()")]
ENTRIES = [
    Entry("put", (), Inode("dir", 0o755, 0, 0, -5)),
    Entry("put", (b"a\xff\n", b"b"), Inode("file", 0o4755, 1, 2, 3, 4, digest_of(b"x"))),
    Entry("put", (b"c",), Inode("symlink", 0o777, 0, 0, 0, target=b"../\xfe\xe2\x80\xa8")),
    Entry("put", (b"d",), Inode("chr", 0o600, 0, 0, 0, rdev=(5, 1))),
    Entry(
        "put",
        (b"e",),
        Inode(
            "file",
            *(0o644, 0, 0, 0, 5 << 20, digest_of(b"y")),
            xattrs=((b"user.x", b"\0\xff"),),
            chunks=digest_of(b"z"),
        ),
    ),
    Entry("link", (b"f",), target=(b"a\xff\n", b"b")),
    Entry("hide", (b"g",)),
    Entry("opaque", ()),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    with ImageStore(tmp_path / "images") as store:
        yield store


def unreadable(layer: Layer) -> Layer:
    def opened() -> BinaryIO:
        raise AssertionError("the layer is read")

    return layer._replace(open=opened)


def layers_of(*members: list[Member]) -> list[Layer]:
    return [as_layer(tar_of(one)) for one in members]


def test_a_record_says_what_the_layer_said() -> None:
    record = encode_layer(ENTRIES)
    assert decode_layer(record) == ENTRIES
    assert encode_layer(decode_layer(record)) == record
    assert blobs_of(ENTRIES) == {digest_of(b"x"), digest_of(b"y"), digest_of(b"z")}


def test_a_record_with_any_byte_changed_is_none() -> None:
    record = encode_layer(ENTRIES)
    chance = random.Random(0)
    for _ in range(300):
        spoiled = bytearray(record)
        spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
        with pytest.raises(LayerRecordInvalid):
            decode_layer(bytes(spoiled))
    for length in range(len(record)):
        with pytest.raises(LayerRecordInvalid):
            decode_layer(record[:length])


def test_a_known_layer_is_not_read_again(store: ImageStore) -> None:
    base, top = layers_of(BASE, TOP)
    first = ingest(MemorySource([base]), store.blobs, store)
    again = ingest(MemorySource([unreadable(base)]), store.blobs, store)
    assert again == first
    both = ingest(MemorySource([unreadable(base), top]), store.blobs, store)
    assert both == ingest(MemorySource([base, top]), store.blobs)


def test_a_layer_of_which_a_blob_is_gone_is_read_again(store: ImageStore) -> None:
    (base,) = layers_of(BASE)
    ingest(MemorySource([base]), store.blobs, store)
    store.blobs.delete(digest_of(LARGE))
    index = ingest(MemorySource([base]), store.blobs, store)
    assert all(map(store.blobs.has, index.blobs()))


def test_a_damaged_record_is_read_over(store: ImageStore) -> None:
    (base,) = layers_of(BASE)
    first = ingest(MemorySource([base]), store.blobs, store)
    store.put_layer(base.diff_id, b"devloop layer 1\nnonsense\n")
    assert ingest(MemorySource([base]), store.blobs, store) == first
    ingest(MemorySource([unreadable(base)]), store.blobs, store)


def test_a_layer_that_was_refused_is_not_known(store: ImageStore) -> None:
    base, evil = layers_of(BASE, [Member(b"../evil")])
    with pytest.raises(Exception, match="leads out of the image"):
        ingest(MemorySource([base, evil]), store.blobs, store)
    assert store.layer(base.diff_id) is None  # its blobs may not be durable
    assert store.layer(evil.diff_id) is None


def test_a_collection_keeps_the_layers_of_images_that_stay_whole(store: ImageStore) -> None:
    """Also what an upper layer hides: the next image on the same base needs it."""
    base, top, other = layers_of(BASE, TOP, [Member(b"other", data=b"other")])
    for name, layers in (("stays", [base, top]), ("goes", [other])):
        source = MemorySource(layers)
        digest = store.add(ingest(source, store.blobs, store))
        store.name(name, source.manifest_digest, digest)
    store.unname("goes")
    store.collect(grace_s=0)
    assert store.layer(other.diff_id) is None
    assert not store.blobs.has(digest_of(b"other"))
    assert store.blobs.has(digest_of(b"127.0.0.1\n"))
    ingest(MemorySource([unreadable(base)]), store.blobs, store)
