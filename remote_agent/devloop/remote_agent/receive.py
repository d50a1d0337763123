"""The agent's end of an upload: parts in, verified blobs in the store.

Owns the order of parts and every limit on what a sender may make the agent read, write or
unpack. Knows neither gRPC nor workspaces; that bytes hash to their digest is the store's to
check, before anything is visible under it. A file that the sender names, on a machine that both
share, is only a place where the bytes of a blob may be.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from devloop.cafs.chunk import Chunk, CopyRange
from devloop.cafs.digest import digest_of
from devloop.cafs.errors import BlobCorrupt, BlobMismatch, BlobMissing, DevloopError
from devloop.cafs.tree import File, decode_node

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from zstandard import ZstdDecompressor

    from devloop.cafs.blobdir import Buffer
    from devloop.cafs.digest import Digest
    from devloop.cafs.store import BlobStore, BlobWriter
    from devloop.cafs.tree import Entry

    from .ahead import Ahead
    from .chunk_index import ChunkIndex

__all__ = ["MAX_BLOB_BYTES", "MAX_PIECE_BYTES", "InvalidUpload", "Receiver"]

MAX_BLOB_BYTES = 1 << 40
MAX_PIECE_BYTES = 1 << 20  # a small blob, or the data of one segment, unpacked
COPY_BYTES = 1 << 20  # read from the base, or a file, at a time
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


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
        self.ahead: Ahead | None = None  # is given the files that are stored

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

    def files(self, folder: bytes, entries: bytes, data: bytes, *, zstd: bool) -> None:
        """Small files of one directory; `entries` is an encoded tree node, `data` their bytes.

        Raises TreeInvalid, BlobMismatch, and what `Ahead.add` raises.
        """
        if self._large is not None:
            raise InvalidUpload(f"files inside blob {self._large.digest.short}")
        content = self._unpacker.unpack(data, zstd=zstd)
        found = list(_split(decode_node(entries), content))
        self._store.put_small([(entry.digest, piece) for _, entry, piece in found])
        if self.ahead is not None:
            self.ahead.add(folder, found)
        self.blobs += len(found)
        self.stored_bytes += len(content)

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

    def segment_file(self, path: bytes, offset: int, size_bytes: int) -> None:
        self._open_large().add_file(path, offset, size_bytes)

    def end_large(self) -> None:
        """Raises BlobMismatch when the bytes are not the blob, InvalidUpload when some lack.

        A blob whose base turns out to be damaged, or of which a file that is read here is something
        else by now, is not stored. That is no error: whoever needs it finds it missing, and the
        damaged base too, so that it is sent whole.
        """
        large = self._open_large()
        is_stored = large.commit()
        self._large = None
        if is_stored:
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

    Invariant: `_at` bytes were written, never more than `size_bytes`. Once it is spoiled they are
    only counted. Nobody is to blame for that: the base was damaged, by its disk or by a run whose
    workspace shares its file, or a file to be read here is not what the sender saw.
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
        self._is_spoiled = False
        self._has_files = False
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
        end = self._at + wanted.size_bytes
        if not self._is_spoiled and not self._copy(self._base, wanted):
            beyond = f"blob {self.digest.short} copies from beyond {self._base.short}"
            self._blame_base(InvalidUpload(beyond))
        self._at = end

    def _copy(self, base: Digest, wanted: CopyRange) -> bool:
        """False when the base has not all of it."""
        offset, end = wanted.offset, wanted.offset + wanted.size_bytes
        while 0 <= offset < end:
            try:
                data = self._store.read_range(base, offset, min(COPY_BYTES, end - offset))
            except (BlobMissing, BlobCorrupt):
                return False
            if not data:
                return False
            self._write(data)
            offset += len(data)
        return offset == end

    def _blame_base(self, error: DevloopError) -> None:
        """Raises `error` unless the base is to blame for it."""
        if self._base is None or self._store.check(self._base):
            raise error
        self._is_spoiled = True

    def add_file(self, path: bytes, offset: int, size_bytes: int) -> None:
        if not path.startswith(b"/"):
            raise InvalidUpload(f"blob {self.digest.short} is in a file without an absolute path")
        self._check_room(size_bytes)
        self._cuts, self._has_files = None, True
        end = self._at + size_bytes
        if not self._is_spoiled:
            for piece in _pieces(path, offset, size_bytes):
                self._write(piece)
            self._is_spoiled = self._at != end
        self._at = end

    def commit(self) -> bool:
        """False, and nothing is stored, when it is spoiled."""
        if self._at != self.size_bytes:
            raise InvalidUpload(
                f"blob {self.digest.short} has {self._at:,} of {self.size_bytes:,} bytes"
            )
        if not self._is_spoiled:
            self._commit_writer()
        self.drop()
        if self._is_spoiled:
            return False
        if self._index is not None and self._cuts is not None:
            self._index.learn(self.digest, self._cuts)
        return True

    def _commit_writer(self) -> None:
        try:
            self._writer.commit()
        except BlobMismatch as error:
            if self._has_files:
                self._is_spoiled = True
            else:
                self._blame_base(error)

    def drop(self) -> None:
        self._writer.__exit__(None, None, None)

    def _write(self, data: Buffer) -> None:
        if not self._is_spoiled:
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


def _split(
    entries: Mapping[bytes, Entry], content: bytes
) -> Iterator[tuple[bytes, File, memoryview]]:
    at, view = 0, memoryview(content)
    for name, entry in entries.items():
        if not isinstance(entry, File):
            raise InvalidUpload(f"{name[:80]!r} is sent as a file, and is none")
        end = at + entry.size_bytes
        yield name, entry, view[at:end]
        at = end
    if at != len(content):
        raise InvalidUpload(f"files of {at:,} bytes come with {len(content):,}")


def _pieces(path: bytes, offset: int, size_bytes: int) -> Iterator[memoryview]:
    """That part of a file, each piece good until the next; less where it cannot be read."""
    with contextlib.ExitStack() as stack:
        try:
            fd = os.open(path, _READ)
            stack.callback(os.close, fd)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return
            os.lseek(fd, offset, os.SEEK_SET)
        except (OSError, OverflowError, ValueError):
            return
        view = memoryview(bytearray(min(COPY_BYTES, size_bytes)))
        while size_bytes and (count := _read_into(fd, view[:size_bytes])):
            yield view[:count]
            size_bytes -= count


def _read_into(fd: int, buffer: memoryview) -> int:
    try:
        return os.readv(fd, [buffer])
    except OSError:
        return 0


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
