"""The maps of sparse files: GNU's old headers, and its three formats in PAX headers.

https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .names import shown
from .tar_fields import BLOCK_BYTES, TarInvalid, decimal, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .tar_stream import TarStream

__all__ = ["Extent", "is_pax_sparse", "old_sparse", "pax_sparse"]

MAX_EXTENTS = 1_000_000

_OLD_MAP = range(386, 386 + 4 * 24, 24)
_OLD_EXTENDED = 482
_OLD_REAL_SIZE = slice(483, 495)
_MORE_MAP = range(0, 21 * 24, 24)
_MORE_EXTENDED = 504


class Extent(NamedTuple):
    """Where a sparse file has bytes."""

    offset: int
    size_bytes: int


def old_sparse(header: bytes, more: Sequence[bytes]) -> tuple[int, tuple[Extent, ...]]:
    """The size and the extents of a member of type "S", with the blocks that follow its header."""
    extents = _old_extents(header, _OLD_MAP)
    for block in more:
        extents += _old_extents(block, _MORE_MAP)
    return _checked(number(header[_OLD_REAL_SIZE]), extents)


def more_old_sparse(header: bytes, stream: TarStream) -> list[bytes]:
    """The blocks that continue the map of such a header."""
    blocks: list[bytes] = []
    is_extended = header[_OLD_EXTENDED]
    while is_extended:
        if len(blocks) * len(_MORE_MAP) > MAX_EXTENTS:
            raise TarInvalid(f"has a sparse file in more than {MAX_EXTENTS:,} pieces")
        blocks.append(stream.take(BLOCK_BYTES))
        is_extended = blocks[-1][_MORE_EXTENDED]
    return blocks


def _old_extents(block: bytes, starts: range) -> list[Extent]:
    found = []
    for start in starts:
        if not block[start]:
            break
        fields = block[start : start + 12], block[start + 12 : start + 24]
        found.append(Extent(number(fields[0]), number(fields[1])))
    return found


def is_pax_sparse(records: Mapping[bytes, bytes]) -> bool:
    """Format 0.0 has no map when the file is one hole."""
    return not {b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.size"}.isdisjoint(records)


def pax_sparse(records: Mapping[bytes, bytes], stream: TarStream) -> tuple[int, tuple[Extent, ...]]:
    """The size and the extents of a file with such records, whose content begins now: that of
    format 1.0 begins with the map."""
    size = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
    if size is None:
        raise TarInvalid("has a sparse file without a size")
    version = records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor")
    if version == (b"1", b"0"):
        numbers = _map_in_content(stream)
    elif version[0] in (None, b"0"):
        text = records.get(b"GNU.sparse.map", b"")
        numbers = [decimal(part) for part in text.split(b",")] if text else []
    else:
        raise TarInvalid(
            f"has a sparse file of a format that nobody knows: {shown(version[0] or b'')}"
        )
    if len(numbers) % 2 or len(numbers) > 2 * MAX_EXTENTS:
        raise TarInvalid("has a sparse file with a malformed map")
    extents = [Extent(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    return _checked(decimal(size), extents)


def _map_in_content(stream: TarStream) -> list[int]:
    """Lines: the number of extents, then offset and size of each; zeros up to a whole block."""
    lines = bytes(stream.take_content(BLOCK_BYTES)).split(b"\n")
    count = decimal(lines[0]) if len(lines) > 1 else -1
    if not 0 <= count <= MAX_EXTENTS:
        raise TarInvalid("has a sparse file with a malformed map")
    while len(lines) < 2 * count + 2:  # the last line is what follows the last line's end
        block = lines.pop() + bytes(stream.take_content(BLOCK_BYTES))
        lines += block.split(b"\n")
        if len(lines[-1]) > BLOCK_BYTES:
            raise TarInvalid("has a sparse file with a malformed map")
    return [decimal(line) for line in lines[1 : 2 * count + 1]]


def _checked(size_bytes: int, extents: list[Extent]) -> tuple[int, tuple[Extent, ...]]:
    """In order, inside the file and apart from each other."""
    position = 0
    for offset, size in extents:
        if size < 0 or offset < position or offset + size > size_bytes:
            raise TarInvalid("has a sparse file with a map that is out of order")
        position = offset + size
    if size_bytes < 0:
        raise TarInvalid("has a sparse file of a negative size")
    return size_bytes, tuple(extent for extent in extents if extent.size_bytes)
