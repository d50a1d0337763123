"""Content-defined chunks: where a large blob is cut, so that two versions share most pieces.

Chunks exist on the wire only; on disk every blob is one whole file. Both sides cut alike because
the parameters below are part of the protocol. They decide how much is shared, never what is
stored: a blob that was put together from chunks is verified like any other. This module knows
neither who asks for chunks nor which of them the other side holds.

Format, version 1: FastCDC 2020 (W. Xia et al., "The Design of Fast Content-Defined Chunking"),
with the gear table of its reference implementation, no seed, normalised chunking of level 1
    minimum   64 KiB
    average  256 KiB beyond the minimum, so 320 KiB on bytes without a pattern
    maximum    1 MiB, which is also the most that one segment of an upload carries
A blob of at most 64 KiB is one chunk, an empty one has none, and only the last chunk of a blob
may be smaller than the minimum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from .digest import Digest, Hasher, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "MAX_CHUNKED_BYTES",
    "MAX_CHUNK_BYTES",
    "MIN_CHUNKED_BYTES",
    "Chunk",
    "CopyRange",
    "Readable",
    "chunks_of",
]

MIN_CHUNK_BYTES = 64 << 10
AVERAGE_CHUNK_BYTES = 256 << 10
MAX_CHUNK_BYTES = 1 << 20
NORMALIZATION: Final = 1

# A smaller blob is sent sooner than a question about it is answered; the index of a larger one
# would take more memory (200 bytes a chunk) than an agent may use for an optimisation.
MIN_CHUNKED_BYTES = 8 << 20
MAX_CHUNKED_BYTES = 64 << 30


class Chunk(NamedTuple):
    offset: int
    size_bytes: int
    digest: Digest


class CopyRange(NamedTuple):
    """Bytes of another blob, the base. As an answer, size 0 says: it is not in there."""

    offset: int
    size_bytes: int


class Readable(Protocol):
    """A binary file, as far as it takes to read one from where it stands to its end."""

    def read(self, n: int, /) -> bytes:
        """At most `n` bytes; none at the end only."""


def chunks_of(file: Readable, whole: Hasher | None = None) -> Iterator[Chunk]:
    """The chunks of what is left in `file`, in order and without a gap.

    Holds 2 MiB of it at a time. `whole` is fed every byte that was cut, so that the caller can
    tell which blob the chunks are of.
    """
    # Half of the command line's verbs never cut anything: they do not pay for the import.
    from pyfastcdc import FastCDC

    cutter = FastCDC(
        AVERAGE_CHUNK_BYTES,
        min_size=MIN_CHUNK_BYTES,
        max_size=MAX_CHUNK_BYTES,
        normalized_chunking=NORMALIZATION,
    )
    # A stream and not a mapping: a file that shrinks while it is mapped kills the process.
    for piece in cutter.cut_stream(file):
        if whole is not None:
            whole.update(piece.data)
        yield Chunk(piece.offset, piece.length, digest_of(piece.data))
