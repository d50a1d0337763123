"""What every `BlobStore` must do, as tests that run for each of them."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.errors import BlobMismatch, BlobMissing
from devloop.cafs.store import SMALL_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from devloop.cafs.store import BlobStore

LARGE = bytes(range(256)) * 12_345
SIZES = (0, 1, 5000, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, len(LARGE))
WRONG = digest_of(b"something else")


class BlobStoreContract:
    """Subclasses provide the fixture `store`, an empty one."""

    def test_what_was_put_can_be_got(self, store: BlobStore) -> None:
        for data in (LARGE[:size] for size in SIZES):
            store.put(digest_of(data), data)
            assert store.get(digest_of(data)) == data
            assert store.size_bytes(digest_of(data)) == len(data)
            assert store.has(digest_of(data))

    def test_any_buffer_can_be_put(self, store: BlobStore) -> None:
        for data in (bytearray(b"one"), memoryview(b"two"), memoryview(LARGE)):
            store.put(digest_of(data), data)
            assert store.get(digest_of(data)) == bytes(data)

    def test_an_absent_blob_is_missing_to_every_reader(self, store: BlobStore) -> None:
        for read in (
            store.get,
            store.size_bytes,
            lambda digest: store.copy_to(digest, 1),
            lambda digest: store.read_range(digest, 0, 1),
        ):
            with pytest.raises(BlobMissing):
                read(WRONG)
        assert not store.has(WRONG)

    def test_bytes_under_a_wrong_name_are_refused_and_not_stored(self, store: BlobStore) -> None:
        for data in (b"data", LARGE):
            with pytest.raises(BlobMismatch):
                store.put(WRONG, data)
        assert list(store) == []

    def test_putting_twice_is_putting_once(self, store: BlobStore) -> None:
        for data in (b"data", LARGE):
            store.put(digest_of(data), data)
            store.put(digest_of(data), data)
        assert sorted(store) == sorted([digest_of(b"data"), digest_of(LARGE)])

    def test_small_blobs_that_are_put_together_are_each_there(self, store: BlobStore) -> None:
        store.put(digest_of(b"2"), b"2")
        blobs = [bytes(view) for view in (b"1", b"2", b"", b"1", LARGE[:SMALL_BYTES])]
        store.put_small([(digest_of(data), memoryview(data)) for data in blobs])
        assert sorted(store) == sorted({digest_of(data) for data in blobs})
        assert [store.get(digest_of(data)) for data in blobs] == blobs
        store.put_small([])

    def test_one_wrong_name_among_small_blobs_is_refused(self, store: BlobStore) -> None:
        with pytest.raises(BlobMismatch):
            store.put_small([(digest_of(b"1"), b"1"), (WRONG, b"2")])
        assert WRONG not in list(store)

    def test_missing_keeps_the_order_and_names_each_once(self, store: BlobStore) -> None:
        a, b, c = (digest_of(data) for data in (b"a", b"b", b"c"))
        store.put(b, b"b")
        assert store.missing([c, b, a, c, b]) == [c, a]
        assert store.missing([]) == []

    def test_a_deleted_blob_is_missing(self, store: BlobStore) -> None:
        for data in (b"data", LARGE):
            digest = digest_of(data)
            store.put(digest, data)
            store.delete(digest)
            store.delete(digest)
            assert store.missing([digest]) == [digest]
        assert list(store) == []

    def test_a_range_is_those_bytes_and_ends_with_the_blob(self, store: BlobStore) -> None:
        for data in (LARGE[:9000], LARGE):
            digest = digest_of(data)
            store.put(digest_of(b"another"), b"another")  # what lies behind it is not it
            store.put(digest, data)
            store.put(digest_of(b"one more"), b"one more")
            assert store.read_range(digest, 1000, 5000) == data[1000:6000]
            assert store.read_range(digest, len(data) - 3, 100) == data[-3:]
            assert store.read_range(digest, len(data), 100) == b""
            assert store.read_range(digest, len(data) + 9, 100) == b""

    def test_a_copy_is_the_blob(self, store: BlobStore, tmp_path: Path) -> None:
        for number, data in enumerate(LARGE[:size] for size in (*SIZES, len(LARGE))):
            store.put(digest_of(data), data)
            path = tmp_path / str(number)
            with path.open("wb") as file:
                assert store.copy_to(digest_of(data), file.fileno()) == len(data)
            assert path.read_bytes() == data

    def test_lending_makes_the_blob_appear_once_and_keeps_it(
        self, store: BlobStore, tmp_path: Path
    ) -> None:
        store.put(digest_of(LARGE), LARGE)
        directory_fd = os.open(tmp_path, os.O_RDONLY)
        lent = [store.lend(digest_of(LARGE), directory_fd, name) for name in (b"one", b"two")]
        os.close(directory_fd)
        assert lent in ([len(LARGE), None], [None, None])
        assert (tmp_path / "one").exists() == (lent[0] is not None)
        assert not (tmp_path / "two").exists()
        assert store.get(digest_of(LARGE)) == LARGE
        assert list(store) == [digest_of(LARGE)]

    def test_an_absent_or_small_blob_is_not_lent(self, store: BlobStore, tmp_path: Path) -> None:
        store.put(digest_of(b"small"), b"small")
        directory_fd = os.open(tmp_path, os.O_RDONLY)
        assert store.lend(WRONG, directory_fd, b"one") is None
        assert store.lend(digest_of(b"small"), directory_fd, b"one") is None
        os.close(directory_fd)

    def test_a_check_tells_what_is_there(self, store: BlobStore) -> None:
        for data in (LARGE[:9000], LARGE):
            assert not store.check(digest_of(data))
            store.put(digest_of(data), data)
            assert store.check(digest_of(data))

    def test_a_committed_writer_stores_its_blob(self, store: BlobStore) -> None:
        for data in (LARGE[:size] for size in SIZES):
            digest = digest_of(data)
            with store.writer(digest, len(data)) as writer:
                for start in range(0, len(data), 30_000):
                    writer.write(data[start : start + 30_000])
                assert not store.has(digest)
                writer.commit()
            assert store.get(digest) == data

    def test_a_writer_left_without_commit_stores_nothing(self, store: BlobStore) -> None:
        for data in (b"data", LARGE):
            with store.writer(digest_of(data), len(data)) as writer:
                writer.write(data)
            with pytest.raises(KeyboardInterrupt), store.writer(digest_of(data), len(data)):
                raise KeyboardInterrupt
        assert list(store) == []

    @pytest.mark.parametrize("data", [b"dat", b"data!", b"date"])
    def test_a_writer_refuses_other_bytes_than_announced(
        self, store: BlobStore, data: bytes
    ) -> None:
        with pytest.raises(BlobMismatch):
            _write(store, digest_of(b"data"), 4, data)
        assert list(store) == []

    def test_sync_returns_with_nothing_put_and_with_much_put(self, store: BlobStore) -> None:
        store.sync()
        digests = [digest_of(data) for data in _distinct(40)]
        for digest, data in zip(digests, _distinct(40), strict=True):
            store.put(digest, data)
        store.sync()
        assert store.missing(digests) == []

    def test_threads_can_put_and_get_the_same_blobs(self, store: BlobStore) -> None:
        blobs = {digest_of(data): data for data in _distinct(50)}
        failures: list[Exception] = []
        threads = [
            threading.Thread(target=_put_and_get, args=(store, blobs, failures)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sorted(store) == sorted(blobs)


def _write(store: BlobStore, digest: Digest, size_bytes: int, data: bytes) -> None:
    with store.writer(digest, size_bytes) as writer:
        writer.write(data)
        writer.commit()


def _distinct(count: int) -> list[bytes]:
    return [b"blob %d " % number * (50 if number % 10 else 9000) for number in range(count)]


def _put_and_get(store: BlobStore, blobs: dict[Digest, bytes], failures: list[Exception]) -> None:
    try:
        for digest, data in sorted(blobs.items(), key=lambda _: os.urandom(4)):
            store.put(digest, data)
            assert store.get(digest) == data
            store.sync()
    except Exception as error:  # noqa: BLE001 - a thread's top: the test reports it
        failures.append(error)
