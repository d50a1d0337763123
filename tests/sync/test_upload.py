from __future__ import annotations

import io
import os
import random
import tracemalloc
from typing import TYPE_CHECKING, BinaryIO

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from devloop.cafs.chunk import Chunk, CopyRange
from devloop.cafs.digest import Digest, digest_of, digest_of_file
from devloop.sync.upload import (
    ENTRY_BYTES,
    FILE_RANGE_BYTES,
    FRAME_BYTES,
    MAX_QUESTION,
    SMALL_BYTES,
    Data,
    FileRange,
    LargePart,
    Outgoing,
    Recipe,
    SmallBlobs,
    Upload,
    make_recipe,
    questions,
    worth_chunking,
    worth_offering,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from devloop.sync.upload import Frame, Segment

MIB = 1 << 20
BASE = digest_of(b"base")
noise = random.Random(3).randbytes


class Files:
    """Files in memory, and how many are open."""

    def __init__(self, content: Mapping[bytes, bytes]) -> None:
        self.content = dict(content)
        self.opened: list[BinaryIO] = []

    def open(self, path: bytes) -> BinaryIO:
        if path not in self.content:
            raise FileNotFoundError(2, "No such file or directory")
        file = io.BytesIO(self.content[path])
        self.opened.append(file)
        return file

    def blobs(self) -> list[Outgoing]:
        return [Outgoing(digest_of(data), len(data), path) for path, data in self.content.items()]


def unpacked(data: bytes, zstd: bool) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data) if zstd else data


def received(frames: Iterable[Frame], base: bytes = b"") -> dict[Digest, bytes]:
    """What a receiver without limits or checks makes of the frames."""
    blobs: dict[Digest, bytes] = {}
    parts: list[bytes] = []
    for frame in frames:
        if isinstance(frame, SmallBlobs):
            blobs.update({blob.digest: unpacked(blob.data, blob.zstd) for blob in frame.blobs})
            continue
        if frame.begin:
            parts = []
        parts += (content_of(segment, base) for segment in frame.segments)
        if frame.end:
            blobs[frame.digest] = b"".join(parts)
    return blobs


def content_of(segment: Segment, base: bytes) -> bytes:
    if isinstance(segment, Data):
        return unpacked(segment.data, segment.zstd)
    return base[segment.offset : segment.offset + segment.size_bytes]


sizes = st.one_of(
    st.integers(0, 600), st.sampled_from([SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, 3 * MIB])
)


@given(st.lists(sizes, max_size=12), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_is_received_is_what_was_sent(
    sizes: list[int], compress: bool, squeezable: bool
) -> None:
    files = Files(
        {
            b"%d" % at: (b"%d" % at).ljust(size, b"x") if squeezable else noise(size)
            for at, size in enumerate(sizes)
        }
    )
    upload = Upload(files.open, compress=compress)
    frames = list(upload.frames(files.blobs()))
    assert received(frames) == {digest_of(data): data for data in files.content.values()}
    assert upload.changed == []
    assert all(file.closed for file in files.opened)
    assert all(weight_of(frame) <= FRAME_BYTES + ENTRY_BYTES for frame in frames)


def weight_of(frame: Frame) -> int:
    if isinstance(frame, SmallBlobs):
        return sum(len(blob.data) + ENTRY_BYTES for blob in frame.blobs)
    return sum(len(segment.data) for segment in frame.segments if isinstance(segment, Data))


def test_many_small_blobs_share_a_frame() -> None:
    files = Files({b"%d" % at: b"%2048d" % at for at in range(1000)})
    frames = list(Upload(files.open, compress=False).frames(files.blobs()))
    assert len(frames) == 2


def test_a_hundred_thousand_empty_files_do_not_make_one_frame() -> None:
    blobs = [Outgoing(digest_of(b""), 0, b"", data=b"")] * 100_000
    frames = list(Upload(Files({}).open, compress=False).frames(blobs))
    assert len(frames) == 5


def test_a_large_blob_is_one_unbroken_run_of_frames() -> None:
    files = Files({b"a": noise(3 * MIB + 5), b"small": b"1", b"b": noise(2 * MIB)})
    frames = list(Upload(files.open, compress=False).frames(files.blobs()))
    assert isinstance(frames[0], SmallBlobs)
    large = [frame for frame in frames[1:] if isinstance(frame, LargePart)]
    assert [(part.begin, part.end) for part in large] == [
        (True, False),
        (False, False),
        (False, False),
        (False, True),
        (True, False),
        (False, True),
    ]


def test_blobs_in_memory_need_no_file() -> None:
    node = Outgoing(digest_of(b"node"), 4, b"dir", data=b"node")
    frames = Upload(Files({}).open, compress=True).frames([node])
    assert received(frames) == {digest_of(b"node"): b"node"}


# ---------------------------------------------------------------- compression


def test_only_what_shrinks_is_compressed() -> None:
    files = Files({b"text": b"import torch\n" * 400, b"noise": noise(5000), b"tiny": b"x" * 500})
    (frame,) = Upload(files.open, compress=True).frames(files.blobs())
    assert isinstance(frame, SmallBlobs)
    assert [blob.zstd for blob in frame.blobs] == [True, False, False]


def test_a_frame_declares_its_unpacked_size() -> None:
    files = Files({b"text": b"import torch\n" * 400, b"large": b"0123456789abcdef" * 100_000})
    for frame in Upload(files.open, compress=True).frames(files.blobs()):
        if isinstance(frame, SmallBlobs):
            assert zstandard.frame_content_size(frame.blobs[0].data) == 13 * 400
        else:
            declared = [
                zstandard.frame_content_size(segment.data)
                for segment in frame.segments
                if isinstance(segment, Data)
            ]
            assert declared == [MIB, 1_600_000 - MIB]


def test_nothing_is_compressed_for_the_same_machine() -> None:
    files = Files({b"text": b"import torch\n" * 400, b"large": bytes(2 * MIB)})
    frames = list(Upload(files.open, compress=False).frames(files.blobs()))
    assert sum(weight_of(frame) for frame in frames) > 2 * MIB


# ---------------------------------------------------------------- sources that changed


@pytest.mark.parametrize("size", [10, MIB, 3 * MIB])
@pytest.mark.parametrize("change", ["edited", "cut short", "gone"])
def test_a_source_that_changed_is_named_and_the_others_still_go(size: int, change: str) -> None:
    files = Files({b"first": b"1", b"victim": noise(size), b"last": b"2", b"large": noise(2 * MIB)})
    blobs = files.blobs()
    if change == "gone":
        del files.content[b"victim"]
    else:
        files.content[b"victim"] = files.content[b"victim"][:-1] + b"?" * (change == "edited")
    upload = Upload(files.open, compress=False)
    got = received(upload.frames(blobs))
    assert [changed.path for changed in upload.changed] == [b"victim"]
    assert upload.changed[0].digest == blobs[1].digest
    assert got.keys() == {blob.digest for blob in blobs if blob.path != b"victim"}
    assert all(file.closed for file in files.opened)


def test_a_large_file_that_the_agent_can_read_travels_as_its_path() -> None:
    size = 2 * FILE_RANGE_BYTES + 5
    blob = Outgoing(digest_of(b"any"), size, b"weights", base=BASE, file=b"/home/weights")
    upload = Upload(Files({}).open, compress=True)  # which has nothing to open
    frames = list(upload.frames([blob]))
    assert [frame.segments for frame in frames if isinstance(frame, LargePart)] == [
        [FileRange(b"/home/weights", 0, FILE_RANGE_BYTES)],
        [FileRange(b"/home/weights", FILE_RANGE_BYTES, FILE_RANGE_BYTES)],
        [FileRange(b"/home/weights", 2 * FILE_RANGE_BYTES, 5)],
    ]
    assert upload.read_bytes == size
    assert not worth_chunking(blob)


def test_only_large_files_are_worth_a_path() -> None:
    assert worth_offering(Outgoing(digest_of(b"x"), 2 * MIB, b"file"))
    assert not worth_offering(Outgoing(digest_of(b"x"), MIB, b"file"))
    assert not worth_offering(Outgoing(digest_of(b"x"), 2 * MIB, b"", data=bytes(2 * MIB)))


def test_a_large_source_that_changes_on_the_way_is_abandoned() -> None:
    files = Files({b"victim": noise(4 * MIB)})
    (blob,) = files.blobs()
    files.content[b"victim"] = files.content[b"victim"][:-1] + b"?"
    frames = list(Upload(files.open, compress=False).frames([blob]))
    assert [(part.begin, part.end, part.abandon) for part in frames if isinstance(part, LargePart)][
        -1
    ] == (False, False, True)


def test_a_source_that_changed_from_the_start_sends_nothing() -> None:
    files = Files({b"victim": b""})
    blob = Outgoing(digest_of(b"x"), 4 * MIB, b"victim")
    assert list(Upload(files.open, compress=False).frames([blob])) == []


def test_a_source_that_only_grew_still_holds_the_blob() -> None:
    files = Files({b"log": noise(100), b"large log": noise(2 * MIB)})
    blobs = files.blobs()
    for path in files.content:
        files.content[path] += b"one more line"
    upload = Upload(files.open, compress=False)
    assert received(upload.frames(blobs)).keys() == {blob.digest for blob in blobs}
    assert upload.changed == []


def test_a_source_that_may_not_be_read_says_why() -> None:
    def refuse(path: bytes) -> BinaryIO:
        raise PermissionError(13, os.strerror(13))

    upload = Upload(refuse, compress=False)
    large = Outgoing(digest_of(b"x"), 9 * MIB, b"locked", base=BASE)
    assert list(upload.frames([Outgoing(digest_of(b"y"), 1, b"secret"), large])) == []
    assert upload.chunks(large) == []
    assert [changed.reason for changed in upload.changed] == ["Permission denied"] * 3


# ---------------------------------------------------------------- laziness


def test_sources_are_read_as_frames_are_pulled() -> None:
    files = Files({b"%d" % at: noise(MIB) for at in range(8)})
    frames = Upload(files.open, compress=False).frames(files.blobs())
    next(frames)
    assert len(files.opened) == 2


def test_an_upload_that_is_dropped_leaves_no_file_open() -> None:
    files = Files({b"large": noise(4 * MIB)})
    frames = Upload(files.open, compress=False).frames(files.blobs())
    next(frames)
    del frames
    assert [file.closed for file in files.opened] == [True]


@pytest.mark.parametrize("compress", [False, True])
def test_a_large_file_is_never_in_memory(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        for at in range(32):
            file.write(random.Random(at).randbytes(MIB))
    with path.open("rb") as file:
        digest, size_bytes = digest_of_file(file)
    blob = Outgoing(digest, size_bytes, bytes(path))
    upload = Upload(lambda _: path.open("rb", buffering=0), compress=compress)
    tracemalloc.start()
    try:
        count = sum(1 for _ in upload.frames([blob]))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 32
    assert peak_bytes < 5 * MIB


# ---------------------------------------------------------------- recipes


def chunk_list(sizes: Iterable[int]) -> Iterator[Chunk]:
    at = 0
    for number, size in enumerate(sizes):
        yield Chunk(at, size, digest_of(b"%d" % number))
        at += size


def test_adjacent_copies_become_one() -> None:
    chunks = list(chunk_list([10, 20, 30, 40, 50]))
    ranges = [
        CopyRange(100, 10),
        CopyRange(110, 20),
        CopyRange(0, 0),
        CopyRange(130, 40),
        CopyRange(0, 50),
    ]
    recipe = make_recipe(BASE, chunks, ranges)
    assert recipe == Recipe(
        BASE, [CopyRange(100, 30), chunks[2], CopyRange(130, 40), CopyRange(0, 50)]
    )
    assert recipe.sent_bytes == 30


def test_a_range_of_another_size_is_no_answer() -> None:
    chunks = list(chunk_list([10, 20]))
    recipe = make_recipe(BASE, chunks, [CopyRange(0, 10), CopyRange(10, 21)])
    assert recipe == Recipe(BASE, [CopyRange(0, 10), chunks[1]])


def test_a_base_that_shares_nothing_makes_no_recipe() -> None:
    assert make_recipe(BASE, list(chunk_list([10])), [CopyRange(0, 0)]) is None


def test_answers_to_another_question_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        make_recipe(BASE, list(chunk_list([10, 20])), [CopyRange(0, 10)])


def test_questions_keep_the_order_and_the_limit() -> None:
    chunks = [Chunk(0, 1, BASE)] * MAX_QUESTION + [Chunk(0, 1, digest_of(b"last"))]
    first, second = questions(chunks)
    assert len(first) == MAX_QUESTION
    assert second == [digest_of(b"last")]


def test_chunks_are_asked_for_only_where_they_may_pay() -> None:
    assert not worth_chunking(Outgoing(BASE, 100 * MIB, b""))
    assert not worth_chunking(Outgoing(BASE, 7 * MIB, b"", base=BASE))
    assert not worth_chunking(Outgoing(BASE, 1 << 40, b"", base=BASE))
    assert worth_chunking(Outgoing(BASE, 8 * MIB, b"", base=BASE))


OLD = noise(9 * MIB)
NEW = OLD[: 3 * MIB] + b"inserted" + OLD[3 * MIB : 6 * MIB] + noise(MIB) + OLD[7 * MIB :]


def planned(upload: Upload, files: Files) -> tuple[Outgoing, Recipe]:
    """The recipe for `new`, with `old` as what the agent holds."""
    old, new = files.blobs()
    held = {chunk.digest: CopyRange(*chunk[:2]) for chunk in upload.chunks(old)}
    chunks = upload.chunks(new)
    recipe = make_recipe(
        old.digest, chunks, [held.get(chunk.digest, CopyRange(0, 0)) for chunk in chunks]
    )
    assert recipe is not None
    return new, recipe


@pytest.mark.parametrize("compress", [False, True])
def test_a_large_file_that_changed_travels_as_its_new_chunks(compress: bool) -> None:
    files = Files({b"old": OLD, b"new": NEW})
    upload = Upload(files.open, compress=compress)
    new, recipe = planned(upload, files)
    frames = list(upload.frames([new], {new.digest: recipe}))
    assert received(frames, base=OLD) == {new.digest: NEW}
    assert sum(weight_of(frame) for frame in frames) == recipe.sent_bytes < 4 * MIB


def test_a_recipe_whose_source_changed_since_is_abandoned() -> None:
    files = Files({b"old": OLD, b"new": NEW})
    upload = Upload(files.open, compress=False)
    new, recipe = planned(upload, files)
    files.content[b"new"] = NEW.replace(b"inserted", b"INSERTED")
    other = Outgoing(digest_of(b"2"), 1, b"other", data=b"2")
    got = received(upload.frames([new, other], {new.digest: recipe}), base=OLD)
    assert got == {other.digest: b"2"}
    assert [changed.path for changed in upload.changed] == [b"new"]


def test_a_source_that_changed_before_it_was_cut_is_not_sent() -> None:
    files = Files({b"new": NEW})
    (new,) = files.blobs()
    files.content[b"new"] = OLD
    upload = Upload(files.open, compress=False)
    assert upload.chunks(new) == []
    assert list(upload.frames([new])) == []
    assert len(upload.changed) == 1


def test_a_source_that_grew_is_cut_as_the_blob_it_still_holds() -> None:
    files = Files({b"log": OLD})
    (blob,) = files.blobs()
    files.content[b"log"] += b"one more line"
    upload = Upload(files.open, compress=False)
    assert sum(chunk.size_bytes for chunk in upload.chunks(blob)) == len(OLD)
    assert upload.changed == []


def test_a_recipe_of_many_steps_spreads_over_frames() -> None:
    steps: list[CopyRange | Chunk] = [CopyRange(2 * at, 1) for at in range(50_000)]
    blob = Outgoing(BASE, 9 * MIB, b"x")
    upload = Upload(Files({b"x": b""}).open, compress=False)
    parts = list(upload.frames([blob], {BASE: Recipe(BASE, steps)}))
    assert [
        step for part in parts if isinstance(part, LargePart) for step in part.segments
    ] == steps
    assert len(parts) == 3
