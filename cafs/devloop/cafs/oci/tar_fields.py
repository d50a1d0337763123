"""The fields of a tar header, and the records of a PAX header. Knows nothing of streams."""

from __future__ import annotations

import re

from .names import shown

__all__ = [
    "BLOCK_BYTES",
    "TarInvalid",
    "TarTruncated",
    "decimal",
    "number",
    "parse_pax",
    "pax_time_ns",
    "until_nul",
]

BLOCK_BYTES = 512

_INT64 = range(-(2**63), 2**63)
_TIME = re.compile(rb"([+-]?)([0-9]*)(?:\.([0-9]*))?")
_MAX_DIGITS = 20  # of a number; a longer one is out of range, and slow to look at


class TarInvalid(Exception):
    """Bytes that claim to be a tar archive are none. The message continues "the layer …"."""


class TarTruncated(TarInvalid):
    """The archive ends inside something."""


def until_nul(field: bytes) -> bytes:
    end = field.find(b"\0")
    return field if end < 0 else field[:end]


def number(field: bytes) -> int:
    """A numeric field: octal digits, or GNU's and star's binary form. Raises TarInvalid."""
    digits = field.strip(b" \0")
    if digits.isdigit() or not digits:
        try:
            return int(digits or b"0", 8)
        except ValueError:
            raise TarInvalid(f"has {shown(field)} for a number") from None
    if field[0] & 0x80:
        return _binary(field)
    cut = until_nul(digits)
    if cut == digits:
        raise TarInvalid(f"has {shown(field)} for a number")
    return number(cut)


def _binary(field: bytes) -> int:
    """Two's complement, big-endian, below a bit that says so."""
    bits = 8 * len(field) - 1
    value = int.from_bytes(field, "big") & ((1 << bits) - 1)
    if value >> (bits - 1):
        value -= 1 << bits
    if value not in _INT64:
        raise TarInvalid(f"has {shown(field)} for a number")
    return value


def decimal(text: bytes) -> int:
    """A number of a PAX record. Raises TarInvalid."""
    sign = text[:1] in (b"-", b"+")
    if len(text) > _MAX_DIGITS or not text[sign:].isdigit() or (value := int(text)) not in _INT64:
        raise TarInvalid(f"has {shown(text)} for a number")
    return value


def pax_time_ns(text: bytes) -> int:
    """Of seconds with a fraction; what is below a nanosecond is cut off. Raises TarInvalid."""
    found = _TIME.fullmatch(text)
    if found is None or len(found[2]) > _MAX_DIGITS or not (found[2] or found[3]):
        raise TarInvalid(f"has {shown(text)} for a time")
    fraction = (found[3] or b"")[:9].ljust(9, b"0")
    ns = int(found[2] or b"0") * 1_000_000_000 + int(fraction)
    return -ns if found[1] == b"-" else ns


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Records "SIZE KEY=VALUE\\n", of which a later one wins. Raises TarInvalid.

    Only a value of a kind that is binary may hold a NUL. The numbers of GNU's sparse format 0.0,
    where one key comes many times, are joined under `GNU.sparse.map`, as format 0.1 has it.
    """
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    offset = 0
    while offset < len(data):
        key, value, offset = _record(data, offset)
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if (key == b"GNU.sparse.numbytes") != len(sparse) % 2:
                raise TarInvalid("has the map of a sparse file out of order")
            sparse.append(value)
        else:
            records[key] = value
    if sparse:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records


def _record(data: bytes, offset: int) -> tuple[bytes, bytes, int]:
    space = data.find(b" ", offset, offset + _MAX_DIGITS)
    size = data[offset:space] if space > 0 else b""
    end = offset + int(size) if size.isdigit() else 0
    if not space < end <= len(data) or data[end - 1] != 0x0A:
        raise TarInvalid("has an extended header that is malformed")
    key, equals, value = data[space + 1 : end - 1].partition(b"=")
    if not key or not equals or b"\0" in key:
        raise TarInvalid("has an extended header with a malformed record")
    return key, value, end
