from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.errors import BlobMismatch, BlobMissing, DevloopError
from devloop.cafs.store import DiskStore
from devloop.remote_agent.receive import MAX_BLOB_BYTES, MAX_PIECE_BYTES, InvalidUpload, Receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Step = Callable[[Receiver], None]

MIB = 1 << 20
noise = random.Random(5).randbytes
BASE = noise(2 * MIB)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with DiskStore(tmp_path / "store") as store:
        yield store


def files_in(store: DiskStore) -> list[Path]:
    return [path for path in (store.root / "blobs").rglob("*") if path.is_file()]


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def zstd_of_unknown_size(data: bytes) -> bytes:
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return packer.compress(data) + packer.flush()


# ---------------------------------------------------------------- what is received


def test_a_small_blob_is_stored(store: DiskStore) -> None:
    with Receiver(store) as receiver:
        receiver.small(digest_of(b"plain"), b"plain", zstd=False)
        receiver.small(digest_of(b"x" * 900), zstd(b"x" * 900), zstd=True)
        receiver.small(digest_of(b""), b"", zstd=False)
    assert store.get(digest_of(b"plain")) == b"plain"
    assert store.get(digest_of(b"x" * 900)) == b"x" * 900
    assert store.get(digest_of(b"")) == b""
    assert (receiver.blobs, receiver.stored_bytes) == (3, 905)


def test_a_large_blob_is_stored_from_its_segments(store: DiskStore) -> None:
    data = noise(MIB) + b"x" * MIB + noise(5)
    with Receiver(store) as receiver:
        receiver.begin_large(digest_of(data), len(data))
        receiver.segment_data(data[:MIB], zstd=False)
        receiver.segment_data(zstd(data[MIB : 2 * MIB]), zstd=True)
        receiver.segment_data(data[2 * MIB :], zstd=False)
        receiver.end_large()
    assert store.get(digest_of(data)) == data
    assert (receiver.blobs, receiver.stored_bytes) == (1, len(data))


@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=100),
            st.tuples(st.integers(0, len(BASE) - 1), st.integers(1, 3 * MIB)),
        ),
        max_size=8,
    )
)
@settings(max_examples=25, deadline=None)
def test_ranges_of_the_base_and_data_make_the_blob(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | tuple[int, int]]
) -> None:
    with DiskStore(tmp_path_factory.getbasetemp() / "ranges") as store:
        store.put(digest_of(BASE), BASE)
        pieces = [
            step if isinstance(step, bytes) else BASE[step[0] : step[0] + step[1]] for step in steps
        ]
        data = b"".join(pieces)
        with Receiver(store) as receiver:
            receiver.begin_large(digest_of(data), len(data), base=digest_of(BASE))
            for step, piece in zip(steps, pieces, strict=True):
                if isinstance(step, bytes):
                    receiver.segment_data(piece, zstd=False)
                else:
                    receiver.segment_copy(step[0], len(piece))
            receiver.end_large()
        assert store.get(digest_of(data)) == data


# ---------------------------------------------------------------- what is refused

ANY = digest_of(b"any")


def small(digest: Digest, content: bytes, *, packed: bool = False) -> Step:
    return lambda receiver: receiver.small(digest, content, zstd=packed)


def begin(size_bytes: int, base: Digest | None = None) -> Step:
    return lambda receiver: receiver.begin_large(ANY, size_bytes, base)


def data(content: bytes, *, packed: bool = False) -> Step:
    return lambda receiver: receiver.segment_data(content, zstd=packed)


def copy(offset: int, size_bytes: int) -> Step:
    return lambda receiver: receiver.segment_copy(offset, size_bytes)


end = Receiver.end_large
abandon = Receiver.abandon_large


def upload(store: DiskStore, *steps: Step) -> None:
    with Receiver(store) as receiver:
        for step in steps:
            step(receiver)


def refused(store: DiskStore, *steps: Step, error: type[DevloopError]) -> str:
    """The message with which the last step fails, having left nothing in the store."""
    before = files_in(store)

    def accepted(_: Receiver) -> None:
        pytest.fail("accepted")

    with pytest.raises(error) as caught:
        upload(store, *steps, accepted)
    assert files_in(store) == before
    return str(caught.value)


def test_bytes_that_are_not_the_blob_are_refused(store: DiskStore) -> None:
    refused(store, small(ANY, b"other"), error=BlobMismatch)
    refused(store, begin(5), data(b"other"), end, error=BlobMismatch)


BAD_ZSTD = {
    "one byte over": (zstd(bytes(MAX_PIECE_BYTES + 1)), "declares 1,048,577 bytes"),
    "a bomb": (zstd(bytes(1 << 27)), "declares 134,217,728 bytes"),
    "of unknown size": (zstd_of_unknown_size(b"x" * 100), "declares -1 bytes"),
    "cut off": (zstd(b"x" * 1000)[:-2], "does not unpack"),
    "followed by more": (zstd(b"x") + b"more", "does not unpack"),
    "not zstd": (b"no zstd at all", "does not unpack"),
    "empty": (b"", "does not unpack"),
}


@pytest.mark.parametrize(("piece", "says"), BAD_ZSTD.values(), ids=BAD_ZSTD)
def test_a_bad_zstd_piece_is_refused_unread(store: DiskStore, piece: bytes, says: str) -> None:
    assert says in refused(store, small(ANY, piece, packed=True), error=InvalidUpload)
    message = refused(store, begin(8 * MIB), data(piece, packed=True), error=InvalidUpload)
    assert says in message


@pytest.mark.parametrize("lie", [0, 1, 199, 201, 255])
def test_a_frame_that_lies_about_its_size_is_refused(store: DiskStore, lie: int) -> None:
    honest = zstd(b"a" * 200)
    # Byte 5 is the content size of a frame of at most 255 bytes.
    lying = honest[:5] + bytes([lie]) + honest[6:]
    assert zstandard.frame_content_size(lying) == lie
    refused(store, small(digest_of(b"a" * 200), lying, packed=True), error=DevloopError)


def test_a_piece_over_the_limit_is_refused(store: DiskStore) -> None:
    over = bytes(MAX_PIECE_BYTES + 1)
    refused(store, small(digest_of(over), over), error=InvalidUpload)
    refused(store, begin(8 * MIB), data(over), error=InvalidUpload)


def test_a_blob_of_an_impossible_size_is_refused(store: DiskStore) -> None:
    refused(store, begin(MAX_BLOB_BYTES + 1), error=InvalidUpload)
    refused(store, begin(-1), error=InvalidUpload)


def test_more_or_fewer_bytes_than_announced_are_refused(store: DiskStore) -> None:
    refused(store, begin(4), data(b"12345"), error=InvalidUpload)
    refused(store, begin(6), data(b"12345"), end, error=InvalidUpload)


def test_an_empty_segment_is_refused(store: DiskStore) -> None:
    refused(store, begin(4), data(b""), error=InvalidUpload)


@pytest.mark.parametrize(
    ("offset", "size"), [(-1, 1), (0, 0), (0, -1), (0, 4), (3, 1), (1 << 62, 1), (0, 1 << 62)]
)
def test_a_copy_from_outside_the_base_is_refused(store: DiskStore, offset: int, size: int) -> None:
    base = digest_of(b"abc")
    store.put(base, b"abc")
    refused(store, begin(100, base), copy(offset, size), error=InvalidUpload)


def test_a_copy_without_a_base_is_refused(store: DiskStore) -> None:
    refused(store, begin(1), copy(0, 1), error=InvalidUpload)


def test_a_base_that_is_not_here_is_named(store: DiskStore) -> None:
    gone = digest_of(b"gone")
    assert gone.short in refused(store, begin(1, gone), error=BlobMissing)


def test_parts_out_of_order_are_refused(store: DiskStore) -> None:
    refused(store, data(b"1"), error=InvalidUpload)
    refused(store, copy(0, 1), error=InvalidUpload)
    refused(store, end, error=InvalidUpload)
    refused(store, begin(1), begin(1), error=InvalidUpload)
    refused(store, begin(1), small(digest_of(b"1"), b"1"), error=InvalidUpload)


# ---------------------------------------------------------------- files of this machine


def file_range(path: Path | bytes, offset: int, size_bytes: int) -> Step:
    return lambda receiver: receiver.segment_file(bytes(path), offset, size_bytes)


def test_a_file_that_is_named_is_read_here(store: DiskStore, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(BASE)
    blob = digest_of(BASE)
    with Receiver(store) as receiver:
        receiver.begin_large(blob, len(BASE))
        receiver.segment_file(bytes(path), 0, MIB + 5)
        receiver.segment_file(bytes(path), MIB + 5, len(BASE) - MIB - 5)
        receiver.end_large()
    assert store.get(blob) == BASE
    assert (receiver.blobs, receiver.stored_bytes) == (1, len(BASE))


def test_a_file_that_is_not_what_the_sender_saw_is_no_error_and_not_stored(
    store: DiskStore, tmp_path: Path
) -> None:
    changed, short, fifo, link = (tmp_path / n for n in ("changed", "short", "fifo", "link"))
    changed.write_bytes(b"x" * len(BASE))
    short.write_bytes(BASE[:-1])
    os.mkfifo(fifo)
    link.symlink_to(changed)
    places = [changed, short, fifo, link, tmp_path, tmp_path / "gone"]
    for path in [*map(bytes, places), b"/nul\0", b"/" * 5000]:
        with Receiver(store) as receiver:
            receiver.begin_large(digest_of(BASE), len(BASE))
            receiver.segment_file(path, 0, MIB)
            receiver.segment_data(BASE[MIB : MIB + 9], zstd=False)
            receiver.segment_file(path, MIB + 9, len(BASE) - MIB - 9)
            receiver.end_large()
            receiver.small(digest_of(b"next"), b"next", zstd=False)
        assert receiver.blobs == 1
    assert list(store) == [digest_of(b"next")]
    assert files_in(store) == []


def test_an_offset_that_no_file_has_is_no_error(store: DiskStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    for offset in (3, 1 << 62, (1 << 64) - 1):
        upload(store, begin(3), file_range(tmp_path / "file", offset, 3), end)
    assert list(store) == []


def test_a_file_is_never_read_beyond_the_blob(store: DiskStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    refused(store, begin(3), file_range(tmp_path / "file", 0, 4), error=InvalidUpload)
    refused(store, begin(3), file_range(tmp_path / "file", 0, 0), error=InvalidUpload)


def test_a_file_without_an_absolute_path_is_refused(store: DiskStore) -> None:
    for path in (b"", b"file", b"../file"):
        refused(store, begin(3), file_range(path, 0, 3), error=InvalidUpload)


# ---------------------------------------------------------------- what is broken off


def test_an_upload_that_ends_inside_a_blob_leaves_nothing(store: DiskStore) -> None:
    with pytest.raises(InvalidUpload, match="ended inside blob"):
        upload(store, begin(5), data(b"1234"))
    assert files_in(store) == []


def test_a_link_that_breaks_leaves_nothing_and_hides_no_error(store: DiskStore) -> None:
    def breaks(_: Receiver) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        upload(store, begin(5), data(b"1234"), breaks)
    assert files_in(store) == []


def test_an_abandoned_blob_leaves_nothing_and_the_next_is_taken(store: DiskStore) -> None:
    upload(store, begin(5), data(b"1234"), abandon, small(digest_of(b"next"), b"next"))
    assert list(store) == [digest_of(b"next")]
    assert files_in(store) == []


def test_blobs_before_a_bad_one_stay(store: DiskStore) -> None:
    with pytest.raises(BlobMismatch):
        upload(store, small(digest_of(b"good"), b"good"), small(ANY, b"bad"))
    assert list(store) == [digest_of(b"good")]
