from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.gc import collect, disk_bytes, expendable, reachable
from devloop.cafs.store import DiskStore, Stored
from devloop.cafs.tree import Dir, File, Node, Symlink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with DiskStore(tmp_path / "store") as store:
        yield store


def put(store: DiskStore, data: bytes, age_s: float = 0) -> Digest:
    digest = digest_of(data)
    store.put(digest, data)
    set_put_time(store, digest, time.time_ns() - int(age_s * 1e9))
    return digest


def set_put_time(store: DiskStore, digest: Digest, then_ns: int) -> None:
    found = store._packs._find(digest)
    if found is None:
        os.utime(store.path_of(digest), ns=(then_ns, then_ns))
    else:
        pack, row = found
        pack.put_ns[row] = then_ns


def put_tree(store: DiskStore, contents: bytes, age_s: float = 0) -> tuple[Digest, set[Digest]]:
    """A tree with a file below a directory. Returns its name and those of all its blobs."""
    blob = put(store, contents, age_s)
    below = Node({b"file": File(0o644, len(contents), 0, blob)}, {})
    root = Node({b"dir": Dir(0o755, below.digest), b"link": Symlink(b"dir")}, {b"dir": below})
    for node in (below, root):
        put(store, node.encoded, age_s)
    return root.digest, {blob, below.digest, root.digest}


def test_everything_below_the_roots_is_reachable_and_nothing_else(store: DiskStore) -> None:
    (a, blobs_a), (b, blobs_b) = put_tree(store, b"a"), put_tree(store, b"b")
    put_tree(store, b"c")
    assert reachable(store, [a]) == blobs_a
    assert reachable(store, [a, b, a]) == blobs_a | blobs_b
    assert reachable(store, []) == set()


def test_a_broken_tree_does_not_hide_another(store: DiskStore) -> None:
    good, blobs = put_tree(store, b"good")
    absent, not_a_tree = digest_of(b"absent"), put(store, b"not a tree")
    assert reachable(store, [absent, not_a_tree, good]) == blobs | {absent, not_a_tree}


def test_the_oldest_unreachable_blobs_go_until_the_limit_holds(store: DiskStore) -> None:
    day = 86400
    root, live = put_tree(store, b"kept", age_s=9 * day)
    oldest, older, old = (put(store, b"%d" % age, age * day) for age in (8, 7, 6))
    kept = [blob for blob in store.stored() if blob.digest in live | {old}]
    limit = sum(disk_bytes(blob.size_bytes) for blob in kept)
    result = collect(store, reachable(store, [root]), limit)
    assert set(store) == live | {old}
    assert result.removed_blobs == 2
    assert result.kept_bytes == limit
    assert store.missing([oldest, older]) == [oldest, older]


def test_nothing_goes_while_the_limit_holds(store: DiskStore) -> None:
    put(store, b"old", age_s=86400)
    assert collect(store, set(), limit_bytes=1 << 20).removed_blobs == 0


def test_a_blob_within_the_grace_age_stays(store: DiskStore) -> None:
    new = put(store, b"new", age_s=10)
    old = put(store, b"old", age_s=100)
    collect(store, set(), limit_bytes=0, grace_s=50)
    assert set(store) == {new}
    assert store.missing([old]) == [old]


def test_a_blob_put_again_since_the_listing_stays(store: DiskStore) -> None:
    digest = put(store, b"data", age_s=86400)
    before_ns = time.time_ns() - 10**9
    store.put(digest, b"data")
    assert not store.delete_unless_newer(digest, before_ns)
    assert store.get(digest) == b"data"


def test_a_killed_writers_file_goes_with_the_next_collection(store: DiskStore) -> None:
    left = store.root / "blobs" / "00" / ".tmp-1-left"
    left.touch()
    os.utime(left, (0, 0))
    collect(store, set(), limit_bytes=1 << 30)
    assert not left.exists()


blobs = st.lists(
    st.builds(
        Stored,
        st.binary(min_size=32, max_size=32).map(Digest),
        st.integers(0, 10**6),
        st.integers(0, 100),
        st.booleans(),
    ),
    unique_by=lambda blob: blob.digest,
)


@given(blobs, st.data())
def test_what_goes_is_old_dead_and_no_more_than_needed(
    stored: list[Stored], data: st.DataObject
) -> None:
    live = {blob.digest for blob in stored if data.draw(st.booleans())}
    limit, newest = data.draw(st.integers(0, 10**7)), data.draw(st.integers(0, 100))
    gone = list(expendable(stored, live, limit, newest))
    kept = [blob for blob in stored if blob not in gone and not blob.is_shared]
    assert all(blob.digest not in live and blob.put_ns <= newest for blob in gone)
    assert not any(blob.is_shared for blob in gone)
    kept_bytes = sum(disk_bytes(blob.size_bytes) for blob in kept)
    if gone:
        assert kept_bytes + disk_bytes(gone[-1].size_bytes) > limit
    if kept_bytes > limit:
        assert all(blob.digest in live or blob.put_ns > newest for blob in kept)
