from __future__ import annotations

import io
import os
import random
import tracemalloc
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from devloop.cafs.chunk import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES, Chunk, chunks_of
from devloop.cafs.digest import Hasher, digest_of

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
PLAIN = random.Random(7).randbytes(6 * MIB)

# From lumpy to random: runs of one byte have no cut but the maximum.
contents = st.builds(
    lambda seed, sizes: b"".join(
        bytes(size) if at % 3 == 2 else random.Random(seed + at).randbytes(size)
        for at, size in enumerate(sizes)
    ),
    st.integers(0, 1000),
    st.lists(st.integers(0, MIB), max_size=6),
)


def cut(data: bytes) -> list[Chunk]:
    return list(chunks_of(io.BytesIO(data)))


@given(contents)
@settings(max_examples=40, deadline=None)
def test_chunks_cover_the_input_in_order_and_are_named_by_their_bytes(data: bytes) -> None:
    at = 0
    for chunk in cut(data):
        assert chunk.offset == at
        assert chunk.digest == digest_of(data[at : at + chunk.size_bytes])
        at += chunk.size_bytes
    assert at == len(data)


@given(contents)
@settings(max_examples=20, deadline=None)
def test_only_the_last_chunk_is_smaller_than_the_minimum_and_none_exceeds_the_maximum(
    data: bytes,
) -> None:
    sizes = [chunk.size_bytes for chunk in cut(data)]
    assert all(size >= MIN_CHUNK_BYTES for size in sizes[:-1])
    assert all(0 < size <= MAX_CHUNK_BYTES for size in sizes)


@given(
    at=st.integers(0, len(PLAIN)),
    removed=st.integers(0, 100_000),
    inserted=st.binary(max_size=1000),
)
@settings(max_examples=40, deadline=None)
def test_an_edit_changes_few_chunks_wherever_it_is(at: int, removed: int, inserted: bytes) -> None:
    edited = PLAIN[:at] + inserted + PLAIN[at + removed :]
    before = {chunk.digest for chunk in cut(PLAIN)}
    new = [chunk for chunk in cut(edited) if chunk.digest not in before]
    # The chunk of the edit, and what it takes until the cuts meet again.
    assert len(new) <= 5, [chunk[:2] for chunk in new]


@given(st.integers(0, len(PLAIN) - 1))
@settings(max_examples=20, deadline=None)
def test_an_overwritten_byte_leaves_every_chunk_before_it_alone(at: int) -> None:
    edited = bytearray(PLAIN)
    edited[at] ^= 0xFF
    untouched = [chunk for chunk in cut(PLAIN) if chunk.offset + chunk.size_bytes <= at]
    assert cut(bytes(edited))[: len(untouched)] == untouched


def test_the_format_cuts_these_bytes_here() -> None:
    # A test vector: other cuts would still be correct, and would share nothing with an older peer.
    data = random.Random(1).randbytes(3 * MIB)
    assert [chunk.size_bytes for chunk in cut(data)] == [
        204_367,
        274_040,
        398_271,
        477_575,
        167_523,
        84_915,
        322_763,
        291_710,
        347_199,
        577_365,
    ]
    assert cut(data)[0].digest.short == "222649252114"


def test_short_and_uniform_inputs_are_cut_by_size_alone() -> None:
    assert cut(b"") == []
    assert [chunk.size_bytes for chunk in cut(bytes(MIN_CHUNK_BYTES))] == [MIN_CHUNK_BYTES]
    assert [chunk.size_bytes for chunk in cut(bytes(3 * MAX_CHUNK_BYTES + 1))] == [
        MAX_CHUNK_BYTES,
        MAX_CHUNK_BYTES,
        MAX_CHUNK_BYTES,
        1,
    ]


def test_the_whole_is_hashed_along_the_way() -> None:
    whole = Hasher()
    list(chunks_of(io.BytesIO(PLAIN), whole))
    assert whole.digest() == digest_of(PLAIN)


class ReadsLittle:
    """Hands out at most 1,000 bytes a call, as a network file system may."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, n: int, /) -> bytes:
        return self._file.read(min(n, 1000))


def test_short_reads_cut_alike() -> None:
    data = PLAIN[: 2 * MIB]
    assert list(chunks_of(ReadsLittle(data))) == cut(data)


def test_a_file_that_shrinks_meanwhile_just_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(PLAIN)
    with path.open("rb", buffering=0) as file:
        chunks = chunks_of(file)
        first = next(chunks)
        os.truncate(path, 100)
        rest = list(chunks)
    assert first.size_bytes + sum(chunk.size_bytes for chunk in rest) < len(PLAIN)


def test_a_large_file_is_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(256 * MIB)
    tracemalloc.start()
    try:
        with path.open("rb", buffering=0) as file:
            count = sum(1 for _ in chunks_of(file))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 256
    assert peak_bytes < 4 * MIB
