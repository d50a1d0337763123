"""The chunk index, and whole uploads from the sending side's frames to the store."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from devloop.cafs.chunk import CopyRange, chunks_of
from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.errors import BlobMismatch
from devloop.cafs.store import DiskStore
from devloop.remote_agent import chunk_index
from devloop.remote_agent.chunk_index import ChunkIndex
from devloop.remote_agent.receive import Receiver
from devloop.sync.upload import (
    Data,
    Outgoing,
    SmallBlobs,
    Upload,
    make_recipe,
    questions,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from devloop.sync.upload import Frame, LargePart

MIB = 1 << 20
OLD = random.Random(11).randbytes(9 * MIB)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with DiskStore(tmp_path / "store") as store:
        yield store


class CountsReads(DiskStore):
    """A store that knows how many bytes were read from it in ranges."""

    read_bytes = 0

    def read_range(self, digest: Digest, offset: int, size_bytes: int) -> bytes:
        data = super().read_range(digest, offset, size_bytes)
        self.read_bytes += len(data)
        return data


def put(store: DiskStore, data: bytes) -> Digest:
    digest = digest_of(data)
    store.put(digest, data)
    return digest


def feed(receiver: Receiver, frames: Iterable[Frame]) -> None:
    """What the servicer does with the messages that the client makes of frames."""
    for frame in frames:
        if isinstance(frame, SmallBlobs):
            for blob in frame.blobs:
                receiver.small(blob.digest, blob.data, zstd=blob.zstd)
        elif frame.abandon:
            receiver.abandon_large()
        else:
            feed_large(receiver, frame)


def feed_large(receiver: Receiver, part: LargePart) -> None:
    if part.begin:
        receiver.begin_large(part.digest, part.size_bytes, part.base)
    for segment in part.segments:
        if isinstance(segment, Data):
            receiver.segment_data(segment.data, zstd=segment.zstd)
        else:
            receiver.segment_copy(segment.offset, segment.size_bytes)
    if part.end:
        receiver.end_large()


def send(store: DiskStore, index: ChunkIndex, base: Digest, data: bytes, compress: bool) -> int:
    """Sends `data` with `base` as its older version. Returns the data bytes that travelled."""
    blob = Outgoing(digest_of(data), len(data), b"file", base=base)
    upload = Upload(lambda _: io.BytesIO(data), compress=compress)
    chunks = upload.chunks(blob)
    ranges: list[CopyRange] = []
    for question in questions(chunks):
        ranges += index.find(base, question) or []
    recipe = make_recipe(base, chunks, ranges) if len(ranges) == len(chunks) else None
    recipes = {blob.digest: recipe} if recipe is not None else {}
    with Receiver(store, index) as receiver:
        feed(receiver, upload.frames([blob], recipes))
    assert upload.changed == []
    return recipe.sent_bytes if recipe is not None else len(data)


# ---------------------------------------------------------------- the index


def test_every_chunk_of_a_stored_blob_is_found_where_it_is(store: DiskStore) -> None:
    base = put(store, OLD)
    chunks = list(chunks_of(io.BytesIO(OLD)))
    wanted = [chunk.digest for chunk in chunks] + [digest_of(b"elsewhere")]
    assert ChunkIndex(store).find(base, wanted) == [
        *(CopyRange(chunk.offset, chunk.size_bytes) for chunk in chunks),
        CopyRange(0, 0),
    ]


def test_a_base_that_is_not_stored_has_no_answer(store: DiskStore) -> None:
    index = ChunkIndex(store)
    assert index.find(digest_of(b"x"), []) is None
    base = put(store, OLD)
    assert index.find(base, []) == []
    store.delete(base)
    assert index.find(base, []) is None


def test_a_damaged_base_has_no_answer(store: DiskStore) -> None:
    base = put(store, OLD)
    path = store.path_of(base)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"flipped")
    assert ChunkIndex(store).find(base, []) is None


def test_a_base_is_read_once(tmp_path: Path) -> None:
    with CountsReads(tmp_path / "store") as store:
        base = put(store, OLD)
        index = ChunkIndex(store)
        index.find(base, [])
        index.find(base, [])
        assert store.read_bytes == len(OLD)


def test_the_index_forgets_what_was_asked_for_longest_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_index, "MAX_BLOBS", 2)
    with CountsReads(tmp_path / "store") as store:
        first, second, third = (put(store, data) for data in (b"1", b"22", b"333"))
        index = ChunkIndex(store)
        for base in (first, second, first, third, first):
            index.find(base, [])
        assert store.read_bytes == 6
        index.find(second, [])
        assert store.read_bytes == 8


def test_the_index_holds_a_bounded_number_of_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_index, "MAX_CHUNKS", 3)
    with CountsReads(tmp_path / "store") as store:
        index = ChunkIndex(store)
        large = put(store, bytes(4 * MIB))
        small = put(store, b"1")
        for base in (large, large, small, large):
            index.find(base, [])
        assert store.read_bytes == 8 * MIB + 1


# ---------------------------------------------------------------- sender to store


edits = st.lists(
    st.tuples(
        st.integers(0, len(OLD)), st.integers(0, 2 * MIB), st.binary(max_size=64), st.integers(1, 9)
    ),
    max_size=4,
)


def edited(data: bytes, changes: list[tuple[int, int, bytes, int]]) -> bytes:
    for at, removed, inserted, times in changes:
        data = data[:at] + inserted * times + data[at + removed :]
    return data


@given(edits, st.booleans())
@settings(max_examples=25, deadline=None)
def test_an_edited_large_file_arrives_whole(
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[int, int, bytes, int]],
    compress: bool,
) -> None:
    with DiskStore(tmp_path_factory.getbasetemp() / "edited") as store:
        base = put(store, OLD)
        data = edited(OLD, changes)
        sent_bytes = send(store, ChunkIndex(store), base, data, compress)
        assert store.get(digest_of(data)) == data
        assert sent_bytes <= 4 * MIB * len(changes)


@given(st.lists(edits, min_size=1, max_size=3))
@settings(max_examples=8, deadline=None)
def test_versions_that_follow_each_other_are_cut_by_the_agent_only_once(
    tmp_path_factory: pytest.TempPathFactory,
    versions: list[list[tuple[int, int, bytes, int]]],
) -> None:
    with CountsReads(tmp_path_factory.mktemp("versions")) as store:
        data, base = OLD, put(store, OLD)
        index = ChunkIndex(store)
        index.find(base, [])
        for changes in versions:
            data = edited(data, changes)
            assume(send(store, index, base, data, compress=False) < len(data))
            base = digest_of(data)
            store.read_bytes = 0
            learned = index.find(base, wanted := [c.digest for c in chunks_of(io.BytesIO(data))])
            assert store.read_bytes == 0
            assert learned == ChunkIndex(store).find(base, wanted)


@pytest.mark.parametrize("cut", [None, 3 * MIB], ids=["changed", "cut short"])
def test_a_base_that_changes_between_question_and_upload_is_dropped_with_what_it_spoiled(
    store: DiskStore, tmp_path: Path, cut: int | None
) -> None:
    """As by a run that writes to a file of its workspace. Then the blob is sent whole."""
    base = put(store, OLD)
    directory_fd = os.open(tmp_path, os.O_RDONLY)
    assert store.lend(base, directory_fd, b"model.bin") == len(OLD)
    os.close(directory_fd)
    index = ChunkIndex(store)
    index.find(base, [])
    lent = tmp_path / "model.bin"
    lent.chmod(0o644)
    with lent.open("r+b") as file:
        file.write(b"by a run")
        file.truncate(cut)
    data = OLD + b"appended"
    assert send(store, index, base, data, compress=False) < len(data)
    assert store.missing([base, digest_of(data)]) == [base, digest_of(data)]
    assert send(store, index, base, data, compress=False) == len(data)
    assert store.get(digest_of(data)) == data
    assert lent.read_bytes().startswith(b"by a run")


def test_a_sender_cannot_blame_a_good_base(store: DiskStore) -> None:
    base = put(store, OLD)
    with Receiver(store) as receiver:
        receiver.begin_large(digest_of(b"another"), 2 * MIB, base)
        receiver.segment_copy(0, 2 * MIB)
        with pytest.raises(BlobMismatch):
            receiver.end_large()
        receiver.abandon_large()
    assert list(store) == [base]


def test_everything_of_a_first_sync_arrives(store: DiskStore, tmp_path: Path) -> None:
    generator = random.Random(2)
    blobs: dict[Digest, Outgoing] = {}
    for at in range(60):
        data = generator.randbytes(generator.choice([0, 10, 2048, 70_000, 3 * MIB]))
        path = tmp_path / str(at)
        path.write_bytes(data)
        blobs[digest_of(data)] = Outgoing(digest_of(data), len(data), bytes(path))
    upload = Upload(io.FileIO, compress=True)
    with Receiver(store) as receiver:
        feed(receiver, upload.frames(blobs.values()))
    assert store.missing(blobs) == []
    assert receiver.blobs == len(blobs)
