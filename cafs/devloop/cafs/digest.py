"""The name of a blob: its BLAKE3 digest (https://github.com/BLAKE3-team/BLAKE3-specs)."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DIGEST_BYTES",
    "Digest",
    "Hasher",
    "digest_of",
    "digest_of_file",
    "split_digests",
]

DIGEST_BYTES = 32

Hasher = blake3


class Digest(bytes):
    """32 bytes that name a blob.

    Raises ValueError when constructed from anything but 32 bytes.
    """

    __slots__ = ()

    def __new__(cls, value: bytes) -> Digest:
        if len(value) != DIGEST_BYTES:
            raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(value)}")
        return super().__new__(cls, value)

    @classmethod
    def fromhex(cls, text: str) -> Digest:
        return cls(bytes.fromhex(text))

    @property
    def short(self) -> str:
        """The first 12 hex digits, for people."""
        return self.hex()[:12]

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"Digest({self.short}…)"


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    return Digest(blake3(data).digest())


def digest_of_file(file: BinaryIO, *, chunk_bytes: int = 1 << 20) -> tuple[Digest, int]:
    """Reads `file` to its end. Returns the digest and the number of bytes that were read."""
    hasher = blake3()
    size_bytes = 0
    while chunk := file.read(chunk_bytes):
        hasher.update(chunk)
        size_bytes += len(chunk)
    return Digest(hasher.digest()), size_bytes


def split_digests(data: bytes) -> Iterator[Digest]:
    """The digests of a concatenation. Raises ValueError when the last one is cut off."""
    for start in range(0, len(data), DIGEST_BYTES):
        yield Digest(data[start : start + DIGEST_BYTES])
