"""Layers in, blobs and an index out: every layer is read once, and nothing is extracted.

A layer that the store knows (`layer_record`) is not read at all.

Owns the order of things and the threads. Refuses to know where layers come from (`source`) and what
becomes of the index. A layer passes through one pipeline: read and verified (`source`), inflated,
its DiffID hashed, cut into members (`tar`), contents hashed and written (`content`). Its names come
out as entries, which `flatten` lays over those of the other layers.
"""

from __future__ import annotations

import contextlib
import hashlib
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event
from typing import TYPE_CHECKING, Protocol

from devloop.cafs.index import Index

from .content import Contents
from .entries import entry_of, is_whiteout, path_of
from .errors import LayerInvalid
from .flatten import Entry, Tree
from .inflate import inflated
from .layer_record import LayerRecordInvalid, blobs_of, decode_layer, encode_layer
from .limits import Limits
from .names import NameInvalid
from .progress import Progress, Tally
from .source_errors import LayerCorrupt
from .tar import TarInvalid, read_tar
from .tar_stream import TarStream
from .verified import short

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from typing import BinaryIO

    from devloop.cafs.wholefiles import WholeFiles

    from .content import Batch
    from .source import ImageSource, Layer
    from .tar import Member

__all__ = ["LAYERS_AT_ONCE", "LayerRecords", "Progress", "ingest"]

LAYERS_AT_ONCE = 3  # as Docker has it: registries limit how many they serve to one client


class LayerRecords(Protocol):
    """Where records of layers are kept, by DiffID. For any thread."""

    def layer(self, diff_id: str) -> bytes | None: ...
    def put_layer(self, diff_id: str, record: bytes) -> None: ...


def ingest(
    source: ImageSource,
    blobs: WholeFiles,
    records: LayerRecords | None = None,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    workers: int = LAYERS_AT_ONCE,
) -> Index:
    """Stores every file of every layer, durably, and returns the index that names them.

    A layer whose record is in `records`, and whose blobs are all there, is not asked for; those
    that are read are added. `workers` layers are read at a time; `progress` is called from any of
    their threads.
    Raises LayerCorrupt, LayerInvalid, ImageRefused, StoreFull, SyncFailed, and what the source's
    layers raise. What was stored until then stays, for the next try, or for garbage collection.
    """
    layers = _Layers(source, blobs, records, progress)
    entries = layers.read(workers)
    index = _flattened(source, entries)
    blobs.sync()
    layers.record(entries)
    return index


def _flattened(source: ImageSource, entries: list[list[Entry]]) -> Index:
    tree = Tree()
    for layer, below in zip(source.layers, entries, strict=True):
        try:
            tree.add_layer(below)
        except NameInvalid as error:
            raise _invalid(layer, error) from error
    try:
        inodes, names = tree.flattened()
    except NameInvalid as error:
        raise LayerInvalid(f"the image has {error}") from error
    diff_ids = tuple(layer.diff_id for layer in source.layers)
    return Index(source.config, source.manifest_digest, diff_ids, inodes, names)


def _invalid(layer: Layer, error: Exception) -> LayerInvalid:
    has = "has " if isinstance(error, NameInvalid) else ""
    return LayerInvalid(f"layer {short(layer.descriptor.digest)} {has}{error}")


class _Layers:
    """All layers of an image, several at a time; the first one that fails stops the others."""

    def __init__(
        self,
        source: ImageSource,
        blobs: WholeFiles,
        records: LayerRecords | None,
        progress: Callable[[Progress], None],
    ) -> None:
        self._layers = source.layers
        self._blobs = blobs
        self._records = records
        self._known: set[int] = set()
        self._limits = Limits()
        self._tally = Tally([layer.descriptor for layer in source.layers], progress)
        self._stopped = Event()

    def read(self, workers: int) -> list[list[Entry]]:
        with Contents(self._blobs, self._limits, self._tally) as contents:
            with ThreadPoolExecutor(workers, "ingest-layer") as pool:
                numbers = range(len(self._layers))
                reads = [pool.submit(self._read_one, number, contents) for number in numbers]
                try:
                    wait(reads, return_when=FIRST_EXCEPTION)
                finally:
                    self._stopped.set()
                    pool.shutdown(cancel_futures=True)
            _raise_first(reads)
            contents.finish()
        return [read.result() for read in reads]

    def record(self, entries: list[list[Entry]]) -> None:
        """Once all blobs are durable, of the layers that were read."""
        if self._records is None:
            return
        for number, layer in enumerate(self._layers):
            if number not in self._known:
                self._records.put_layer(layer.diff_id, encode_layer(entries[number]))

    def _recorded(self, diff_id: str) -> list[Entry] | None:
        record = self._records.layer(diff_id) if self._records is not None else None
        if record is None:
            return None
        try:
            entries = decode_layer(record)
        except LayerRecordInvalid:
            return None
        return entries if all(map(self._blobs.has, blobs_of(entries))) else None

    def _read_one(self, number: int, contents: Contents) -> list[Entry]:
        layer = self._layers[number]
        if (entries := self._recorded(layer.diff_id)) is not None:
            self._known.add(number)
            self._tally.state(number, "done")
            return entries
        self._tally.state(number, "reading")
        with contextlib.closing(layer.open()) as raw:
            counted = _Counted(raw, number, self._tally)
            try:
                entries = self._read_tar(layer, counted, contents.batch())
            except LayerInvalid:
                # What is damaged on its way looks like anything; the source knows that at its end.
                while counted.read(1 << 20):
                    self._check()
                raise
        self._tally.state(number, "done")
        return entries

    def _read_tar(self, layer: Layer, raw: _Counted, batch: Batch) -> list[Entry]:
        hasher = hashlib.new(layer.diff_id.partition(":")[0])
        stream = TarStream(self._pieces(layer, raw, hasher.update))
        entries = []
        try:
            for member in read_tar(stream):
                self._limits.entry()
                if (entry := self._entry(member, stream, batch)) is not None:
                    entries.append(entry)
        except (TarInvalid, NameInvalid) as error:
            raise _invalid(layer, error) from error
        batch.flush()
        stream.drain()
        if hasher.hexdigest() != layer.diff_id.partition(":")[2]:
            name, found = short(layer.descriptor.digest), hasher.hexdigest()[:12]
            raise LayerCorrupt(
                f"layer {name} holds {found}, though the image says {short(layer.diff_id)}"
            )
        return entries

    def _entry(self, member: Member, stream: TarStream, batch: Batch) -> Entry | None:
        path = path_of(member)
        if path is None:
            return None
        if member.kind != "file" or not member.size_bytes or is_whiteout(path):
            return entry_of(member, path)
        self._limits.file(member)
        return entry_of(member, path, *batch.store(member, stream))

    def _pieces(
        self, layer: Layer, raw: _Counted, hashed: Callable[[bytes], object]
    ) -> Iterator[bytes]:
        size_bytes = 0
        name = short(layer.descriptor.digest)
        for piece in inflated(raw, layer.descriptor.media_type, name):
            self._check()
            size_bytes += len(piece)
            self._limits.tar(len(piece), size_bytes, raw.size_bytes)
            hashed(piece)
            yield piece

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """Another layer has failed."""


class _Counted:
    """A layer's bytes as they travel."""

    def __init__(self, raw: BinaryIO, number: int, tally: Tally) -> None:
        self._raw = raw
        self._number = number
        self._tally = tally
        self.size_bytes = 0

    def read(self, size_bytes: int) -> bytes:
        data = self._raw.read(size_bytes)
        self.size_bytes += len(data)
        self._tally.read(self._number, len(data))
        return data


def _raise_first(reads: Sequence[Future[list[Entry]]]) -> None:
    """Of those that failed, one that was not stopped by another's failure."""
    failures = [read.exception() for read in reads if not read.cancelled()]
    for failure in failures:
        if failure is not None and not isinstance(failure, _StoppedError):
            raise failure
