"""The agent's end of an upload: parts in, verified blobs in the store.

Owns the order of parts and every limit on what a sender may make the agent read, write or
unpack. Knows neither gRPC nor workspaces; that bytes hash to their digest is the store's to
check, before anything is visible under it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devloop.cafs.chunk import Chunk, CopyRange
from devloop.cafs.digest import digest_of
from devloop.cafs.errors import BlobMissing, DevloopError

if TYPE_CHECKING:
    from types import TracebackType

    from zstandard import ZstdDecompressor

    from devloop.cafs.digest import Digest
    from devloop.cafs.store import BlobStore, BlobWriter

    from .chunk_index import ChunkIndex

__all__ = ["MAX_BLOB_BYTES", "MAX_PIECE_BYTES", "InvalidUpload", "Receiver"]

MAX_BLOB_BYTES = 1 << 40
MAX_PIECE_BYTES = 1 << 20  # a small blob, or the data of one segment, unpacked
COPY_BYTES = 1 << 20  # read from the base at a time


class InvalidUpload(DevloopError):
    """The parts of an upload do not make the blobs that they claim to be."""

    hint = "the sender is broken or hostile; if it is devloop itself, report it"


class Receiver:
    """One upload, used by one thread at a time as a context manager.

    Every blob is stored as soon as it is whole. After an exception only leaving is allowed;
    a large blob that is open then, or was never ended, leaves nothing behind.
    """

    def __init__(self, store: BlobStore, index: ChunkIndex | None = None) -> None:
        """`index` is told the cuts of large blobs, so that the next version need not be cut."""
        self.blobs = 0
        self.stored_bytes = 0
        self._store = store
        self._index = index
        self._large: _Large | None = None
        self._unpacker = _Unpacker()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raises InvalidUpload when the sender stopped in the middle of a blob."""
        unfinished = self._large
        self.abandon_large()
        if unfinished is not None and error is None:
            raise InvalidUpload(f"upload ended inside blob {unfinished.digest.short}")

    def small(self, digest: Digest, data: bytes, *, zstd: bool) -> None:
        if self._large is not None:
            raise InvalidUpload(f"another blob inside blob {self._large.digest.short}")
        content = self._unpacker.unpack(data, zstd=zstd)
        self._store.put(digest, content)
        self._count(len(content))

    def begin_large(self, digest: Digest, size_bytes: int, base: Digest | None = None) -> None:
        """Raises BlobMissing when `base` is not here (any more): the blob has to be sent whole."""
        if self._large is not None:
            raise InvalidUpload(f"another blob inside blob {self._large.digest.short}")
        if not 0 <= size_bytes <= MAX_BLOB_BYTES:
            raise InvalidUpload(f"blob {digest.short} of {size_bytes:,} bytes: limit 1 TiB")
        if base is not None and not self._store.has(base):
            raise BlobMissing(base)
        self._large = _Large(self._store, digest, size_bytes, base, self._index)

    def segment_data(self, data: bytes, *, zstd: bool) -> None:
        self._open_large().add_data(self._unpacker.unpack(data, zstd=zstd))

    def segment_copy(self, offset: int, size_bytes: int) -> None:
        self._open_large().add_copy(CopyRange(offset, size_bytes))

    def end_large(self) -> None:
        """Raises BlobMismatch when the bytes are not the blob, InvalidUpload when some lack.

        A blob with a base that mismatches has to be sent whole: the base itself may be damaged.
        """
        large = self._open_large()
        large.commit()
        self._large = None
        self._count(large.size_bytes)

    def abandon_large(self) -> None:
        """Forgets the open blob, if there is one."""
        if self._large is not None:
            self._large.drop()
            self._large = None

    def _open_large(self) -> _Large:
        if self._large is None:
            raise InvalidUpload("part of a large blob before its begin")
        return self._large

    def _count(self, size_bytes: int) -> None:
        self.blobs += 1
        self.stored_bytes += size_bytes


class _Large:
    """A large blob that is being put together.

    Invariant: `_at` bytes were written, never more than `size_bytes`.
    """

    def __init__(
        self,
        store: BlobStore,
        digest: Digest,
        size_bytes: int,
        base: Digest | None,
        index: ChunkIndex | None,
    ) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self._store = store
        self._base = base
        self._index = index
        self._at = 0
        # The segments of a blob with a base are whole chunks of it: their cuts come for free.
        self._cuts: list[Chunk] | None = [] if index is not None and base is not None else None
        self._writer: BlobWriter = store.writer(digest, size_bytes)
        self._writer.__enter__()

    def add_data(self, data: bytes) -> None:
        self._check_room(len(data))
        if self._cuts is not None:
            self._cuts.append(Chunk(self._at, len(data), digest_of(data)))
        self._write(data)

    def add_copy(self, wanted: CopyRange) -> None:
        if self._base is None:
            raise InvalidUpload(f"blob {self.digest.short} copies without naming a base")
        self._check_room(wanted.size_bytes)
        self._learn_copied(self._base, wanted)
        offset, end = wanted.offset, wanted.offset + wanted.size_bytes
        if wanted.offset < 0 or end > self._store.size_bytes(self._base):
            raise InvalidUpload(f"blob {self.digest.short} copies from beyond {self._base.short}")
        while offset < end:
            size_bytes = min(COPY_BYTES, end - offset)
            self._write(self._store.read_range(self._base, offset, size_bytes))
            offset += size_bytes

    def commit(self) -> None:
        if self._at != self.size_bytes:
            raise InvalidUpload(
                f"blob {self.digest.short} has {self._at:,} of {self.size_bytes:,} bytes"
            )
        self._writer.commit()
        self._writer.__exit__(None, None, None)
        if self._index is not None and self._cuts is not None:
            self._index.learn(self.digest, self._cuts)

    def drop(self) -> None:
        self._writer.__exit__(None, None, None)

    def _write(self, data: bytes) -> None:
        self._writer.write(data)
        self._at += len(data)

    def _check_room(self, size_bytes: int) -> None:
        if size_bytes <= 0:
            raise InvalidUpload(f"blob {self.digest.short} has an empty segment")
        if self._at + size_bytes > self.size_bytes:
            raise InvalidUpload(f"blob {self.digest.short} exceeds its {self.size_bytes:,} bytes")

    def _learn_copied(self, base: Digest, wanted: CopyRange) -> None:
        if self._cuts is None or self._index is None:
            return
        copied = self._index.within(base, wanted)
        if copied is None:
            self._cuts = None
            return
        shift = self._at - wanted.offset
        self._cuts += [Chunk(cut.offset + shift, cut.size_bytes, cut.digest) for cut in copied]


class _Unpacker:
    """Undoes the sender's compression, never beyond what the frame's header declares."""

    def __init__(self) -> None:
        self._decompressor: ZstdDecompressor | None = None

    def unpack(self, data: bytes, *, zstd: bool) -> bytes:
        if not zstd:
            if len(data) > MAX_PIECE_BYTES:
                raise InvalidUpload(f"a piece of {len(data):,} bytes: limit 1 MiB")
            return data
        return self._inflate(data)

    def _inflate(self, data: bytes) -> bytes:
        # Takes 16 ms to import, which an upload from the same machine does not pay.
        import zstandard

        if self._decompressor is None:
            self._decompressor = zstandard.ZstdDecompressor(max_window_size=2 * MAX_PIECE_BYTES)
        try:
            size_bytes = zstandard.frame_content_size(data)
            # The library allocates what the header declares, before it looks at the rest.
            if not 0 <= size_bytes <= MAX_PIECE_BYTES:
                raise InvalidUpload(f"a zstd piece that declares {size_bytes:,} bytes: limit 1 MiB")
            content = self._decompressor.decompress(data, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise InvalidUpload(f"a zstd piece that does not unpack: {error}") from error
        if len(content) != size_bytes:
            raise InvalidUpload(f"a zstd piece of {len(content):,} bytes declares {size_bytes:,}")
        return content
