"""What goes into which frame of an upload.

Owns the order, packing and compression of blobs on their way to the agent, and the recipe of a
large blob of which the agent holds an older version. Frames are made as they are pulled, so a
thread can read and compress while the event loop sends; 5 MiB of content are held at most.
Knows no gRPC type and no path outside what `open_source` opens; asks the agent nothing.

A blob is never sent under a digest that its bytes do not have: a source that changed since it
was hashed is left out and named in `Upload.changed`, and every other blob still goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeAlias, TypeVar

from devloop.cafs.chunk import MAX_CHUNKED_BYTES, MIN_CHUNKED_BYTES, Chunk, CopyRange, chunks_of
from devloop.cafs.digest import Digest, Hasher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from zstandard import ZstdCompressor

__all__ = [
    "Data",
    "FileRange",
    "Frame",
    "LargePart",
    "Outgoing",
    "Packer",
    "Recipe",
    "Segment",
    "SmallBlob",
    "SmallBlobs",
    "SourceChanged",
    "Upload",
    "make_recipe",
    "questions",
    "worth_chunking",
    "worth_offering",
]

FRAME_BYTES = 1 << 20  # content of one frame, as it travels
SMALL_BYTES = 1 << 20  # a larger blob is a run of frames of its own
SEGMENT_BYTES = 1 << 20
FILE_RANGE_BYTES = 16 << 20  # an agent that is to stop is at work on one no longer than 0.1 s
MAX_QUESTION = 65_536  # digests

# What a blob or segment takes beside its content: 10⁵ empty files must not make one frame.
ENTRY_BYTES = 48

# On bytes that do not compress, level 1 costs 0.2 ms a MiB: trying is as cheap as guessing.
ZSTD_LEVEL = 1
MIN_ZSTD_BYTES = 512


class Outgoing(NamedTuple):
    """A blob that the agent lacks."""

    digest: Digest
    size_bytes: int
    path: bytes  # names it, and is what `open_source` opens
    data: bytes | None = None  # the blob, when it is in memory: a tree node
    base: Digest | None = None  # a blob of the agent's that is likely to share chunks with it
    file: bytes | None = None  # its absolute path, when the agent can read it by that itself


class SourceChanged(NamedTuple):
    """The file does not hold the blob any more: hash it again, and send what it is now."""

    path: bytes
    digest: Digest  # the blob that was not sent
    reason: str


class Data(NamedTuple):
    data: bytes
    zstd: bool


class FileRange(NamedTuple):
    """Bytes that an agent on this machine reads itself: they are copied once, not five times."""

    path: bytes
    offset: int
    size_bytes: int


Segment: TypeAlias = Data | CopyRange | FileRange


class SmallBlob(NamedTuple):
    digest: Digest
    data: bytes
    zstd: bool


class SmallBlobs(NamedTuple):
    """A frame of whole blobs."""

    blobs: list[SmallBlob]


class LargePart(NamedTuple):
    """A frame of a large blob; nothing else comes between its `begin` and its `end`.

    `abandon` ends the run instead: the source changed, and the agent forgets what it has of it.
    """

    digest: Digest
    size_bytes: int
    base: Digest | None
    segments: list[Segment]
    begin: bool
    end: bool
    abandon: bool = False


Frame: TypeAlias = SmallBlobs | LargePart

T = TypeVar("T", SmallBlob, Segment)


class Recipe(NamedTuple):
    """How to make a blob from ranges of `base` and chunks of the source, in order."""

    base: Digest
    steps: list[CopyRange | Chunk]

    @property
    def sent_bytes(self) -> int:
        return sum(step.size_bytes for step in self.steps if isinstance(step, Chunk))


class _Changed(Exception):  # leaves this module as a SourceChanged value
    pass


class _Head:
    """The first bytes of a file: what was appended since belongs to another blob."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._left = size_bytes

    def read(self, n: int, /) -> bytes:
        data = self._file.read(min(n, self._left))
        self._left -= len(data)
        return data


def worth_chunking(blob: Outgoing) -> bool:
    """Is asking which chunks the agent holds likely to be cheaper than sending the blob?"""
    return (
        blob.base is not None
        and blob.file is None
        and MIN_CHUNKED_BYTES <= blob.size_bytes <= MAX_CHUNKED_BYTES
    )


def worth_offering(blob: Outgoing) -> bool:
    """Is it a file of which an agent on the same machine had better be told the path?"""
    return blob.data is None and blob.size_bytes > SMALL_BYTES


def questions(chunks: Sequence[Chunk]) -> Iterator[list[Digest]]:
    """The digests to ask the agent for, no more at once than one HaveChunks may hold."""
    for start in range(0, len(chunks), MAX_QUESTION):
        yield [chunk.digest for chunk in chunks[start : start + MAX_QUESTION]]


def make_recipe(
    base: Digest, chunks: Sequence[Chunk], ranges: Sequence[CopyRange]
) -> Recipe | None:
    """`ranges` answers `chunks` one for one. None when the base holds none of them.

    Raises ValueError when there are more or fewer answers than questions.
    """
    steps: list[CopyRange | Chunk] = []
    for chunk, found in zip(chunks, ranges, strict=True):
        if found.size_bytes != chunk.size_bytes:
            steps.append(chunk)
        elif steps and _adjoin(steps[-1], found):
            steps[-1] = CopyRange(steps[-1].offset, steps[-1].size_bytes + found.size_bytes)
        else:
            steps.append(found)
    if not any(isinstance(step, CopyRange) for step in steps):
        return None
    return Recipe(base, steps)


def _adjoin(step: CopyRange | Chunk, found: CopyRange) -> bool:
    return isinstance(step, CopyRange) and step.offset + step.size_bytes == found.offset


class Packer:
    """For one thread at a time."""

    def __init__(self, *, compress: bool) -> None:
        self.compresses = compress
        self._compressor = _compressor() if compress else None

    def pack(self, data: bytes) -> tuple[bytes, bool]:
        """What to send, and whether it is compressed: where that pays."""
        if self._compressor is None or len(data) < MIN_ZSTD_BYTES:
            return data, False
        packed = self._compressor.compress(data)
        if len(packed) + len(data) // 16 < len(data):
            return packed, True
        return data, False


class Upload:
    """One upload. Used by one thread at a time; `changed` is complete when the frames are."""

    def __init__(self, open_source: Callable[[bytes], BinaryIO], *, compress: bool) -> None:
        """`open_source` takes an `Outgoing.path`, and refuses with OSError what is no file.

        `compress=False` suits an agent on the same machine.
        """
        self.changed: list[SourceChanged] = []
        self.read_bytes = 0  # content of the frames that were made
        self._open = open_source
        self._packer = Packer(compress=compress)

    def chunks(self, blob: Outgoing) -> list[Chunk]:
        """The cuts of the blob, all of which is read; none, and it is in `changed`, when the source
        does not hold it."""
        whole = Hasher()
        try:
            with self._open(blob.path) as file:
                chunks = list(chunks_of(_Head(file, blob.size_bytes), whole))
        except OSError as error:
            self._note(blob, _reason(error))
            return []
        if whole.digest() == blob.digest:
            return chunks
        self._note(blob, "it changed while it was uploaded")
        return []

    def frames(
        self, blobs: Iterable[Outgoing], recipes: Mapping[Digest, Recipe] | None = None
    ) -> Iterator[Frame]:
        """Every blob that is not in `changed`: small ones first, then large ones one by one."""
        large: list[Outgoing] = []
        for group, _ in _grouped(self._small_blobs(blobs, large)):
            yield SmallBlobs(group)
        for blob in large:
            recipe = recipes.get(blob.digest) if recipes is not None else None
            yield from self._large_frames(blob, recipe)

    # ------------------------------------------------------------ small blobs

    def _small_blobs(self, blobs: Iterable[Outgoing], large: list[Outgoing]) -> Iterator[SmallBlob]:
        """Leaves the large ones in `large`."""
        skip = {changed.digest for changed in self.changed}
        for blob in blobs:
            if blob.digest in skip:
                continue
            if blob.size_bytes > SMALL_BYTES:
                large.append(blob)
            elif (data := self._small_data(blob)) is not None:
                yield SmallBlob(blob.digest, *self._pack(data))

    def _small_data(self, blob: Outgoing) -> bytes | None:
        data = blob.data
        if data is None:
            try:
                with self._open(blob.path) as file:
                    data = _read(file, blob.size_bytes)
            except OSError as error:
                self._note(blob, _reason(error))
                return None
        if Hasher(data).digest() == blob.digest:
            return data
        self._note(blob, "it changed while it was uploaded")
        return None

    # ------------------------------------------------------------ large blobs

    def _large_frames(self, blob: Outgoing, recipe: Recipe | None) -> Iterator[LargePart]:
        base = recipe.base if recipe is not None else None
        begun = False
        try:
            for segments, last in _grouped(self._segments(blob, recipe)):
                yield LargePart(blob.digest, blob.size_bytes, base, segments, not begun, last)
                begun = True
            return
        except _Changed:
            self._note(blob, "it changed while it was uploaded")
        except OSError as error:
            self._note(blob, _reason(error))
        if begun:
            yield LargePart(blob.digest, blob.size_bytes, base, [], False, False, abandon=True)

    def _segments(self, blob: Outgoing, recipe: Recipe | None) -> Iterator[Segment]:
        """Raises _Changed before the segment that would complete another blob."""
        if blob.file is not None:
            yield from self._file_segments(blob.file, blob.size_bytes)
            return
        with self._open(blob.path) as file:
            if recipe is None:
                yield from self._whole_segments(blob, file)
            else:
                yield from self._recipe_segments(recipe, file)

    def _whole_segments(self, blob: Outgoing, file: BinaryIO) -> Iterator[Segment]:
        hasher = Hasher()
        left = blob.size_bytes
        while left:
            data = _read(file, min(SEGMENT_BYTES, left))
            if not data:
                raise _Changed
            hasher.update(data)
            left -= len(data)
            if not left and hasher.digest() != blob.digest:
                raise _Changed
            yield Data(*self._pack(data))

    def _file_segments(self, path: bytes, size_bytes: int) -> Iterator[Segment]:
        """Whether it still is the blob the agent finds out, which has to hash it anyway."""
        for offset in range(0, size_bytes, FILE_RANGE_BYTES):
            segment = FileRange(path, offset, min(FILE_RANGE_BYTES, size_bytes - offset))
            self.read_bytes += segment.size_bytes
            yield segment

    def _recipe_segments(self, recipe: Recipe, file: BinaryIO) -> Iterator[Segment]:
        # The chunks together are known to be the blob: each that still is itself keeps it so.
        for step in recipe.steps:
            if isinstance(step, CopyRange):
                yield step
                continue
            file.seek(step.offset)
            data = _read(file, step.size_bytes)
            if Hasher(data).digest() != step.digest:
                raise _Changed
            yield Data(*self._pack(data))

    # ------------------------------------------------------------ both

    def _pack(self, data: bytes) -> tuple[bytes, bool]:
        self.read_bytes += len(data)
        return self._packer.pack(data)

    def _note(self, blob: Outgoing, reason: str) -> None:
        self.changed.append(SourceChanged(blob.path, blob.digest, reason))


def _grouped(items: Iterator[T]) -> Iterator[tuple[list[T], bool]]:
    """Runs of items that fit a frame each, or are one that does not; True with the last run."""
    group: list[T] = []
    left = FRAME_BYTES
    for item in items:
        weight = _weight(item)
        if group and weight > left:
            yield group, False
            group, left = [], FRAME_BYTES
        group.append(item)
        left -= weight
    if group:
        yield group, True


def _weight(item: SmallBlob | Segment) -> int:
    if isinstance(item, CopyRange):
        return ENTRY_BYTES
    if isinstance(item, FileRange):
        return FRAME_BYTES  # much work for the agent, though little to send
    return ENTRY_BYTES + len(item.data)


def _read(file: BinaryIO, size_bytes: int) -> bytes:
    """`size_bytes` of `file`, fewer only at its end."""
    data = file.read(size_bytes)
    while len(data) < size_bytes and (more := file.read(size_bytes - len(data))):
        data += more
    return data


def _reason(error: OSError) -> str:
    return "it is gone" if isinstance(error, FileNotFoundError) else error.strerror or str(error)


def _compressor() -> ZstdCompressor:
    # Takes 16 ms to import, which an upload on the same machine does not pay.
    from zstandard import ZstdCompressor

    return ZstdCompressor(level=ZSTD_LEVEL)
