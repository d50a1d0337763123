"""Bytes that are checked against their descriptor while they are read.

Refuses to know where they come from.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Protocol

from .source_errors import ImageCorrupt, ImageUnsupported, LayerCorrupt

if TYPE_CHECKING:
    from collections.abc import Callable

    from .source import Descriptor

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "Readable",
    "Verified",
    "check_document",
    "read_document",
    "short",
    "verified_stream",
]

# As registries limit manifests; a config with more than a few hundred KiB has not been seen.
MAX_DOCUMENT_BYTES = 4 << 20
BUFFER_BYTES = 256 << 10


class Readable(Protocol):
    """Bytes in order. `readinto` returns 0 at the end only."""

    def readinto(self, buffer: memoryview, /) -> int: ...
    def close(self) -> None: ...


class Verified(io.RawIOBase):
    """No byte beyond the size that was promised is ever given, and the last one only when the
    digest is right."""

    def __init__(self, source: Readable, descriptor: Descriptor, image: str) -> None:
        self._source = source
        self._descriptor = descriptor
        self._image = image
        self._hasher = hashlib.new(descriptor.digest.partition(":")[0])
        self._position = 0
        if not descriptor.size_bytes:
            self._check_digest()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # of what io gives us
        left = self._descriptor.size_bytes - self._position
        with memoryview(buffer)[:left] as view:
            if not view.nbytes:
                return 0
            count = self._source.readinto(view)
            if not count:
                raise self._truncated()
            self._hasher.update(view[:count])
        self._position += count
        if count == left:
            self._check_digest()
        return count

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()

    def _truncated(self) -> LayerCorrupt:
        size = f"{self._position:,} of {self._descriptor.size_bytes:,} bytes"
        return LayerCorrupt(
            f"layer {short(self._descriptor.digest)} of {self._image} ends at {size}"
        )

    def _check_digest(self) -> None:
        algorithm, _, expected = self._descriptor.digest.partition(":")
        if (actual := self._hasher.hexdigest()) != expected:
            message = (
                f"layer {short(self._descriptor.digest)} of {self._image} "
                f"hashes to {short(f'{algorithm}:{actual}')}"
            )
            raise LayerCorrupt(message)


def verified_stream(source: Readable, descriptor: Descriptor, image: str) -> io.BufferedReader:
    try:
        raw = Verified(source, descriptor, image)
    except LayerCorrupt:
        source.close()
        raise
    return io.BufferedReader(raw, BUFFER_BYTES)


def read_document(open_blob: Callable[[Descriptor], Readable], descriptor: Descriptor) -> bytes:
    """All bytes of what is promised to be small, unverified. Raises ImageUnsupported."""
    if descriptor.size_bytes > MAX_DOCUMENT_BYTES:
        size = f"{descriptor.size_bytes:,} bytes, more than {MAX_DOCUMENT_BYTES:,}"
        raise ImageUnsupported(f"{descriptor.media_type} {short(descriptor.digest)} has {size}")
    data = bytearray(descriptor.size_bytes)
    position = 0
    source = open_blob(descriptor)
    try:
        with memoryview(data) as view:
            while position < len(data) and (count := source.readinto(view[position:])):
                position += count
    finally:
        source.close()
    return bytes(data[:position])


def check_document(data: bytes, digest: str, what: str) -> None:
    """Raises ImageCorrupt. `what`: names it in the message."""
    algorithm, _, expected = digest.partition(":")
    actual = hashlib.new(algorithm, data).hexdigest()
    if actual != expected:
        raise ImageCorrupt(f"{what} {short(digest)} hashes to {short(f'{algorithm}:{actual}')}")


def short(digest: str) -> str:
    """For people: the algorithm and the first 12 digits."""
    algorithm, _, value = digest.partition(":")
    return f"{algorithm}:{value[:12]}"
