"""Layers as the tar that is inside: plain, gzip or zstd. Knows nothing of tar.

What the media type says must be what the bytes are; a type that says nothing of it (Docker's
"…diff.tar" of older tools) is judged by the bytes alone.
"""

from __future__ import annotations

import zlib
from typing import IO, TYPE_CHECKING, Protocol, cast

from .errors import LayerInvalid
from .source_errors import LayerCorrupt

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PIECE_BYTES", "inflated"]

PIECE_BYTES = 1 << 20
_READ_BYTES = 256 << 10
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # and before it one byte of 0x50 to 0x5f
_GZIP_WINDOW = 31  # zlib's way to say: a gzip header, and the largest window
_MAX_ZSTD_WINDOW = 1 << 27  # what `zstd -d` takes without being asked


class Readable(Protocol):
    def read(self, size_bytes: int, /) -> bytes:
        """At most that many bytes; none at the end only."""


class _Inflater(Protocol):
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def inflated(raw: Readable, media_type: str, layer: str) -> Iterator[bytes]:
    """The tar in pieces of at most about a MiB. `raw` is read to its end.

    Raises LayerInvalid, LayerCorrupt, and what `raw` raises. `layer` names it in messages.
    """
    head = raw.read(_READ_BYTES)
    kind = _kind_of(head)
    joint = "." if media_type.startswith("application/vnd.docker.") else "+"
    _, _, expected = media_type.partition(f".tar{joint}")
    if expected and kind != expected:
        raise LayerInvalid(f"layer {layer} is {kind}, though the manifest says {media_type}")
    if kind == "gzip":
        return _gunzipped(raw, head, layer)
    if kind == "zstd":
        return _unzstd(raw, head, layer)
    return _plain(raw, head)


def _kind_of(head: bytes) -> str:
    if head.startswith(_GZIP):
        return "gzip"
    is_skippable = head[1:4] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50
    return "zstd" if head.startswith(_ZSTD) or is_skippable else "tar"


def _plain(raw: Readable, data: bytes) -> Iterator[bytes]:
    while data:
        yield data
        data = raw.read(PIECE_BYTES)


def _gunzipped(raw: Readable, data: bytes, layer: str) -> Iterator[bytes]:
    """All members, one after another. Zeros after the last one are padding, as gzip has it."""
    inflater = _new_inflater()
    while data:
        try:
            piece = inflater.decompress(data, PIECE_BYTES)
        except _errors() as error:
            raise LayerCorrupt(f"layer {layer} is damaged: {error}") from error
        if piece:
            yield piece
        if inflater.eof:
            data = inflater.unused_data or raw.read(_READ_BYTES)
            while data and not data.strip(b"\0"):
                data = raw.read(_READ_BYTES)
            if data:
                inflater, data = _new_inflater(), data.lstrip(b"\0")
        else:
            data = inflater.unconsumed_tail or raw.read(_READ_BYTES)
    if not inflater.eof:
        raise LayerCorrupt(f"layer {layer} ends inside its compressed data")


def _new_inflater() -> _Inflater:
    try:
        from isal.isal_zlib import decompressobj  # four times as fast
    except ImportError:
        return zlib.decompressobj(_GZIP_WINDOW)
    inflater: _Inflater = decompressobj(_GZIP_WINDOW)
    return inflater


def _errors() -> tuple[type[Exception], ...]:
    try:
        from isal import isal_zlib
    except ImportError:
        return (zlib.error,)
    return (zlib.error, cast("type[Exception]", isal_zlib.error))


def _unzstd(raw: Readable, head: bytes, layer: str) -> Iterator[bytes]:
    """All frames; those that may be skipped hold no content."""
    from zstandard import ZstdDecompressor, ZstdError

    inflater = ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
    source = cast("IO[bytes]", _Rest(head, raw))  # all that it is used for
    stream = inflater.stream_reader(source, _READ_BYTES, read_across_frames=True)
    while True:
        try:
            piece = stream.read(PIECE_BYTES)
        except ZstdError as error:
            raise LayerCorrupt(f"layer {layer} is damaged: {error}") from error
        if not piece:
            return
        yield piece


class _Rest:
    """What has been read already, and then the stream."""

    def __init__(self, head: bytes, raw: Readable) -> None:
        self._head = head
        self._raw = raw

    def read(self, size_bytes: int) -> bytes:
        if self._head:
            data, self._head = self._head[:size_bytes], self._head[size_bytes:]
            return data
        return self._raw.read(size_bytes)
