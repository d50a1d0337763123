"""What files hold, from a stream into blobs.

Owns hashing and writing, and the threads that write small files. Knows neither layers nor names.

A small file is hashed where the archive is read, and written by one of the writers, a batch at a
time. A large one is written as it streams, with the digests of its pieces; its holes, and long
stretches of zeros, take no space on the disk.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING

from devloop.cafs.blobdir import disk_full
from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.index import CHUNK_BYTES, CHUNKED_FROM_BYTES

from .tar_sparse import Extent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from typing import Self

    from devloop.cafs.wholefiles import Draft, WholeFiles

    from .limits import Limits
    from .progress import Tally
    from .tar import Member
    from .tar_stream import TarStream

__all__ = ["Contents"]

_WRITERS = 2
_BATCHES = 16  # that may wait; each holds on to what it was cut from
_BATCH_FILES = 64
_BATCH_BYTES = 1 << 20
_ZEROS = bytes(CHUNK_BYTES)

Blob = tuple[Digest, bytes | memoryview]


class Contents:
    """Raises StoreFull, and OSError of other kinds; the first one that a writer met comes out of
    whatever is called next, and of `finish` at the latest."""

    def __init__(self, blobs: WholeFiles, limits: Limits, tally: Tally) -> None:
        self._blobs = blobs
        self._limits = limits
        self._tally = tally
        self._writers = ThreadPoolExecutor(_WRITERS, "ingest-write")
        self._places = BoundedSemaphore(_BATCHES)
        self._lock = Lock()
        self._known: set[Digest] = set()
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writers.shutdown(cancel_futures=True)

    def batch(self) -> Batch:
        """One for each thread that reads."""
        return Batch(self)

    def finish(self) -> None:
        """When all batches were flushed: waits until everything is written."""
        self._writers.shutdown()
        self.check()

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    # ------------------------------------------------------------------ for batches

    def is_new(self, digest: Digest) -> bool:
        """True once for each blob."""
        with self._lock:
            count = len(self._known)
            self._known.add(digest)
            return len(self._known) != count

    def submit(self, blobs: list[Blob]) -> None:
        self.check()
        self._places.acquire()
        self._writers.submit(self._write, blobs).add_done_callback(self._written)

    def _write(self, blobs: list[Blob]) -> None:
        if self._failure is not None:
            return
        new_bytes = 0
        for digest, data in blobs:
            try:
                if self._blobs.put_new(digest, data):
                    new_bytes += len(data)
            except OSError as error:
                raise self.explained(error, len(data)) from error
        self._tally.stored(len(blobs), new_bytes)

    def _written(self, done: Future[None]) -> None:
        self._places.release()
        if not done.cancelled() and (failure := done.exception()) is not None:
            self._failure = self._failure or failure

    def explained(self, error: OSError, size_bytes: int) -> Exception:
        need_bytes = size_bytes + self._tally.left_bytes()
        return disk_full(error, self._blobs.root, need_bytes) or error

    # ------------------------------------------------------------------ large files

    def store_large(self, member: Member, stream: TarStream) -> tuple[Digest, Digest]:
        """Returns the digests of the file and of its chunk list."""
        written = 0
        try:
            with self._blobs.draft() as draft:
                chunks = []
                for view in _chunks(member, stream):
                    written += _write_chunk(draft, view)
                    chunks.append(digest_of(view))
                    self.check()
                digest = draft.commit()
            listing = b"".join(chunks)
            self._blobs.put_new(digest_of(listing), listing)
        except OSError as error:
            raise self.explained(error, member.size_bytes - written) from error
        self._tally.stored(1, written)
        return digest, digest_of(listing)


class Batch:
    """The small files of one thread, on their way to the writers."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._blobs: list[Blob] = []
        self._size_bytes = 0

    def store(self, member: Member, stream: TarStream) -> tuple[Digest | None, Digest | None]:
        """Takes the whole content. Returns the digests of it and of its chunk list, where it has
        them."""
        size_bytes = member.size_bytes
        if not size_bytes:
            return None, None
        if size_bytes > CHUNKED_FROM_BYTES:
            return self._contents.store_large(member, stream)
        if member.extents is None:
            data = stream.take_content(size_bytes)
        else:
            data = b"".join(_with_holes(member, member.extents, stream))
        digest = digest_of(data)
        if self._contents.is_new(digest):
            self._add(digest, data)
        return digest, None

    def _add(self, digest: Digest, data: bytes | memoryview) -> None:
        self._blobs.append((digest, data))
        self._size_bytes += len(data)
        if len(self._blobs) >= _BATCH_FILES or self._size_bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._blobs:
            self._contents.submit(self._blobs)
        self._blobs, self._size_bytes = [], 0


def _with_holes(
    member: Member, extents: tuple[Extent, ...], stream: TarStream
) -> Iterator[bytes | memoryview]:
    position = 0
    for offset, size_bytes in extents:
        yield from _zeros(offset - position)
        yield from stream.content_views(size_bytes)
        position = offset + size_bytes
    yield from _zeros(member.size_bytes - position)


def _zeros(size_bytes: int) -> Iterator[memoryview]:
    view = memoryview(_ZEROS)
    for start in range(0, size_bytes, CHUNK_BYTES):
        yield view[: size_bytes - start]


def _chunks(member: Member, stream: TarStream) -> Iterator[bytes | bytearray | memoryview]:
    """The content in pieces of CHUNK_BYTES, the last one smaller; each is good until the next."""
    extents = member.extents
    everything = (Extent(0, member.size_bytes),) if extents is None else extents
    chunk = bytearray()
    for view in _with_holes(member, everything, stream):
        start = 0
        while start < len(view):
            piece = view[start : start + CHUNK_BYTES - len(chunk)]
            start += len(piece)
            if len(piece) == CHUNK_BYTES:
                yield piece
                continue
            chunk += piece
            if len(chunk) == CHUNK_BYTES:
                yield chunk
                chunk = bytearray()
    if chunk:
        yield chunk


def _write_chunk(draft: Draft, chunk: bytes | bytearray | memoryview) -> int:
    """Returns how many bytes take space on the disk."""
    if _is_zero(chunk):
        draft.write_hole(chunk)
        return 0
    draft.write(chunk)
    return len(chunk)


def _is_zero(chunk: bytes | bytearray | memoryview) -> bool:
    """Three looks before all of it is compared: that copies it."""
    if len(chunk) != CHUNK_BYTES or chunk[0] or chunk[-1] or chunk[CHUNK_BYTES // 2]:
        return False
    return bytes(chunk) == _ZEROS
