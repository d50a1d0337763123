"""Indexes: what an image looks like, flattened, without any content.

Owns the values, the one encoding and what is allowed in it. Refuses to know where images come from
and how one is mounted. Whoever has decoded an index need not check names again: no path in it
leads out of its root, and every parent of a path is a directory in it.

Format, version 1 (all integers big-endian; N inodes, M names)
    index     = magic manifest config layers inodes names
    magic     = "dlindex" 0x00 0x01
    manifest  = text                          "sha256:…" of the manifest that it was made from
    config    = size:u32 bytes                the OCI image configuration, as it came
    layers    = count:u16 text*               DiffIDs, bottom to top
    text      = size:u8 bytes                 ALGORITHM ":" DIGITS

    inodes    = N:u32 and then by columns, so that a column is packed and unpacked in one call
        kind:u8           * N                 1 file, 2 dir, 3 symlink, 4 chr, 5 blk, 6 fifo
        mode:u16          * N                 permission bits, at most 0o7777; 0o777 of a symlink
        uid:u32 * N   gid:u32 * N             at most 2^32 - 2
        mtime_ns:i64      * N                 since 1970, may be negative
        size:u64          * files             at most 2^63 - 1
        digest:32         * files of size > 0
        chunks:32         * files of size > 4 MiB; the digest of a blob which is the concatenation
                                              of the digests of the file's pieces of 256 KiB
        target_size:u16   * symlinks          1 to 4095, and then the targets, without NUL
        major:u32         * devices           at most 2^12 - 1
        minor:u32         * devices           at most 2^20 - 1
        X:u32, number:u32 * X                 which inodes have extended attributes, ascending
        attributes        * X                 count:u16 (name_size:u8 name value_size:u32 value)*
    names     = M:u32 and then by columns, in ascending byte order of the paths; the root, whose
                path is empty, comes first and is in no column but `inode`
        parent:u32        * (M - 1)           which of the names is the parent's
        name_size:u8      * (M - 1)           and then the names: 1 to 255 bytes, without NUL and
                                              "/", neither "." nor ".."
        inode:u32         * M                 inodes are numbered in the order of their first names

Several names of one inode are hard links; a directory has exactly one name. A path has at most 4095
bytes. Attributes are sorted by name, which is one of those that `is_kept_xattr` allows. One digest
never stands for blobs of two sizes. Every image has exactly one encoding, of which the BLAKE3
digest names the index; `decode` refuses any other.
"""

from __future__ import annotations

import re
import struct
from functools import partial
from itertools import accumulate, repeat
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar, get_args

from .digest import DIGEST_BYTES, Digest
from .errors import StoreError
from .uncollected import uncollected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "CHUNKED_FROM_BYTES",
    "CHUNK_BYTES",
    "MAX_NAME_BYTES",
    "MAX_PATH_BYTES",
    "MAX_TARGET_BYTES",
    "Index",
    "IndexInvalid",
    "Inode",
    "Kind",
    "chunk_list_bytes",
    "is_kept_xattr",
]

MAGIC = b"dlindex\x00\x01"
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4095
MAX_TARGET_BYTES = 4095
MAX_ID = 2**32 - 2
MAX_MAJOR = 2**12 - 1
MAX_MINOR = 2**20 - 1
MAX_SIZE_BYTES = 2**63 - 1
MAX_XATTR_BYTES = 1 << 16  # of one value, as Linux has it

CHUNK_BYTES = 256 << 10
CHUNKED_FROM_BYTES = 4 << 20  # a file that is larger has a chunk list

Kind = Literal["file", "dir", "symlink", "chr", "blk", "fifo"]
_KINDS: tuple[Kind, ...] = get_args(Kind)
_CODES: dict[str, int] = {kind: code for code, kind in enumerate(_KINDS, 1)}
_KIND_OF: dict[int, Kind] = dict(enumerate(_KINDS, 1))

_TEXT = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9A-Za-z=_-]+")
# What the kernel would refuse to set, and what would tell an overlay file system above the image
# where to look for another file's content.
_KEPT_XATTRS = (b"user.", b"trusted.", b"security.")
_KEPT_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_DROPPED_XATTRS = (b"trusted.overlay.", b"user.overlay.", b"security.selinux")

T = TypeVar("T")


class IndexInvalid(StoreError):
    """Bytes or values that claim to be an image index are not one, or not a safe one."""

    hint = "the sender is broken or hostile; pull the image again"


class Inode(NamedTuple):
    """One file of whatever kind, with everything but its names. Fields that its kind does not have
    keep their defaults."""

    kind: Kind
    mode: int  # permission bits with setuid, setgid and sticky; 0o777 for a symlink
    uid: int
    gid: int
    mtime_ns: int
    size_bytes: int = 0  # of a regular file's content
    digest: Digest | None = None  # a regular file that is not empty has one
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)  # major, minor
    xattrs: tuple[tuple[bytes, bytes], ...] = ()  # sorted
    chunks: Digest | None = None  # a file of more than CHUNKED_FROM_BYTES has one


class Index(NamedTuple):
    config: bytes
    manifest_digest: str
    layers: tuple[str, ...]
    inodes: tuple[Inode, ...]
    names: tuple[tuple[bytes, int], ...]  # (path, position in inodes), sorted; b"" is the root

    def encode(self) -> bytes:
        """The one encoding. Raises IndexInvalid for what the format does not allow."""
        _check(self)
        try:
            return b"".join(
                (
                    MAGIC,
                    _encode_text(self.manifest_digest),
                    struct.pack(">I", len(self.config)),
                    self.config,
                    struct.pack(">H", len(self.layers)),
                    *map(_encode_text, self.layers),
                    *_encode_inodes(self.inodes),
                    *_encode_names(self.names),
                )
            )
        except (struct.error, UnicodeEncodeError) as error:
            raise IndexInvalid(f"a value of the image index is out of range: {error}") from error

    @classmethod
    def decode(cls, data: bytes) -> Index:
        """Raises IndexInvalid unless `data` is what `encode` makes of a safe index."""
        with uncollected():
            return cls._decode(data)

    @classmethod
    def _decode(cls, data: bytes) -> Index:
        reader = _Reader(data)
        if reader.take(len(MAGIC)) != MAGIC:
            raise IndexInvalid(f"not an image index: starts with {data[: len(MAGIC)]!r}")
        manifest = reader.text()
        config = reader.take(reader.number(">I"))
        layers = tuple([reader.text() for _ in range(reader.number(">H"))])
        index = cls(config, manifest, layers, _decode_inodes(reader), _decode_names(reader))
        reader.end()
        _check(index)
        return index

    def blobs(self) -> dict[Digest, int]:
        """Every blob that the image needs, chunk lists too, with its size in bytes."""
        found: dict[Digest, int] = {}
        for inode in self.inodes:
            if inode.digest is not None:
                found[inode.digest] = inode.size_bytes
                if inode.chunks is not None:
                    found[inode.chunks] = chunk_list_bytes(inode.size_bytes)
        return found


def chunk_list_bytes(size_bytes: int) -> int:
    """The size of the chunk list of a file of that size."""
    return -(-size_bytes // CHUNK_BYTES) * DIGEST_BYTES


def is_kept_xattr(name: bytes) -> bool:
    """May an image bring this extended attribute along?"""
    if not name or len(name) > MAX_NAME_BYTES or b"\0" in name or name in _KEPT_XATTRS:
        return False
    if name.startswith(_DROPPED_XATTRS):
        return False
    return name.startswith(_KEPT_XATTRS) or name in _KEPT_ACLS


# ---------------------------------------------------------------------- encoding


def _encode_text(text: str) -> bytes:
    data = text.encode("ascii")
    return struct.pack(">B", len(data)) + data


def _column(code: str, values: Sequence[int]) -> bytes:
    return struct.pack(f">{len(values)}{code}", *values)


def _encode_inodes(inodes: Sequence[Inode]) -> Iterator[bytes]:
    files = [inode for inode in inodes if inode.kind == "file"]
    targets = [inode.target for inode in inodes if inode.kind == "symlink"]
    devices = [inode.rdev for inode in inodes if inode.kind in ("chr", "blk")]
    yield struct.pack(">I", len(inodes))
    yield bytes([_CODES[inode.kind] for inode in inodes])
    yield _column("H", [inode.mode for inode in inodes])
    yield _column("I", [inode.uid for inode in inodes])
    yield _column("I", [inode.gid for inode in inodes])
    yield _column("q", [inode.mtime_ns for inode in inodes])
    yield _column("Q", [inode.size_bytes for inode in files])
    yield b"".join([inode.digest for inode in files if inode.digest is not None])
    yield b"".join([inode.chunks for inode in files if inode.chunks is not None])
    yield _column("H", [len(target) for target in targets])
    yield b"".join(targets)
    yield _column("I", [major for major, _ in devices])
    yield _column("I", [minor for _, minor in devices])
    yield from _encode_xattrs(inodes)


def _encode_xattrs(inodes: Sequence[Inode]) -> Iterator[bytes]:
    numbers = [number for number, inode in enumerate(inodes) if inode.xattrs]
    yield struct.pack(">I", len(numbers))
    yield _column("I", numbers)
    for number in numbers:
        yield struct.pack(">H", len(inodes[number].xattrs))
        for name, value in inodes[number].xattrs:
            yield struct.pack(">B", len(name)) + name + struct.pack(">I", len(value)) + value


def _encode_names(names: Sequence[tuple[bytes, int]]) -> Iterator[bytes]:
    number_of = {path: number for number, (path, _) in enumerate(names)}
    parts = [path.rpartition(b"/") for path, _ in names[1:]]
    yield struct.pack(">I", len(names))
    yield _column("I", [number_of[parent] for parent, _, _ in parts])
    yield bytes([len(name) for _, _, name in parts])
    yield b"".join([name for _, _, name in parts])
    yield _column("I", [inode for _, inode in names])


# ---------------------------------------------------------------------- decoding


class _Reader:
    """Takes an encoding apart from front to back. Raises IndexInvalid where it is cut off."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def take(self, size_bytes: int) -> bytes:
        start = self._offset
        self._offset += size_bytes
        if self._offset > len(self._data):
            raise IndexInvalid(f"the image index is cut off at byte {len(self._data):,}")
        return self._data[start : self._offset]

    def number(self, code: str) -> int:
        value: int = struct.unpack(code, self.take(struct.calcsize(code)))[0]
        return value

    def column(self, code: str, count: int) -> tuple[int, ...]:
        data = self.take(count * struct.calcsize(f">{code}"))
        return struct.unpack(f">{count}{code}", data)

    def text(self) -> str:
        return self.take(self.number(">B")).decode("latin-1")

    def digests(self, count: int) -> list[Digest]:
        data = self.take(count * DIGEST_BYTES)
        starts = range(0, len(data), DIGEST_BYTES)
        # Each slice has its 32 bytes: skip the check of Digest's constructor.
        return [_as_digest(Digest, data[start : start + DIGEST_BYTES]) for start in starts]

    def split(self, sizes: Sequence[int]) -> list[bytes]:
        """As many pieces as there are sizes, one after another."""
        data = self.take(sum(sizes))
        ends = accumulate(sizes)
        return [data[end - size : end] for end, size in zip(ends, sizes, strict=True)]

    def end(self) -> None:
        if self._offset != len(self._data):
            raise IndexInvalid(f"the image index goes on after its end, byte {self._offset:,}")


_as_digest = bytes.__new__
_as_inode = partial(tuple.__new__, Inode)  # as `_make` does it, which counts the fields besides
_SLASH = ord("/")


def _decode_inodes(reader: _Reader) -> tuple[Inode, ...]:
    count = reader.number(">I")
    codes = reader.take(count)
    if codes.translate(None, bytes(_KIND_OF)):
        raise IndexInvalid("the image index has an entry of an unknown kind")
    columns = [reader.column(code, count) for code in "HIIq"]
    sizes = reader.column("Q", codes.count(_CODES["file"]))
    digests = iter(reader.digests(sum(map(bool, sizes))))
    chunks = iter(reader.digests(sum(size > CHUNKED_FROM_BYTES for size in sizes)))
    is_file = _is(codes, "file")
    size_of = _spread(is_file, sizes, 0)
    return tuple(
        map(
            _as_inode,
            zip(
                [_KIND_OF[code] for code in codes],
                *columns,
                size_of,
                [next(digests) if size else None for size in size_of],
                _spread(_is(codes, "symlink"), reader.split(_target_sizes(reader, codes)), b""),
                _spread(_is(codes, "chr", "blk"), _decode_devices(reader, codes), (0, 0)),
                _decode_xattrs(reader, count),
                [next(chunks) if size > CHUNKED_FROM_BYTES else None for size in size_of],
                strict=True,
            ),
        )
    )


def _is(codes: bytes, *kinds: Kind) -> list[bool]:
    wanted = {_CODES[kind] for kind in kinds}
    return [code in wanted for code in codes]


def _spread(has: Iterable[bool], values: Iterable[T], default: T) -> list[T]:
    """The values in order, each where `has` says so."""
    following = iter(values)
    return [next(following) if this else default for this in has]


def _target_sizes(reader: _Reader, codes: bytes) -> tuple[int, ...]:
    return reader.column("H", codes.count(_CODES["symlink"]))


def _decode_devices(reader: _Reader, codes: bytes) -> Iterator[tuple[int, int]]:
    count = codes.count(_CODES["chr"]) + codes.count(_CODES["blk"])
    return zip(reader.column("I", count), reader.column("I", count), strict=True)


def _decode_xattrs(reader: _Reader, inodes: int) -> list[tuple[tuple[bytes, bytes], ...]]:
    found: list[tuple[tuple[bytes, bytes], ...]] = list(repeat((), inodes))
    last = -1
    for number in reader.column("I", reader.number(">I")):
        if not last < number < inodes:
            raise IndexInvalid("the image index has extended attributes out of order")
        found[number] = tuple([_decode_xattr(reader) for _ in range(reader.number(">H"))])
        if not found[number]:
            raise IndexInvalid("the image index has an empty list of extended attributes")
        last = number
    return found


def _decode_xattr(reader: _Reader) -> tuple[bytes, bytes]:
    name = reader.take(reader.number(">B"))
    return name, reader.take(reader.number(">I"))


def _decode_names(reader: _Reader) -> tuple[tuple[bytes, int], ...]:
    count = reader.number(">I")
    if not count:
        raise IndexInvalid("the image index has no root")
    parents = reader.column("I", count - 1)
    names = reader.split(reader.take(count - 1))
    paths = [b""]
    longest = 0
    try:
        for parent, name in zip(parents, names, strict=True):
            # The parent must have come before; anything else is no list entry yet.
            path = paths[parent] + b"/" + name if parent else name
            paths.append(path)
            longest = max(longest, len(path))
            if longest > MAX_PATH_BYTES:  # before a hostile index has made gigabytes of them
                raise IndexInvalid(f"a path of the image index has {longest:,} bytes")
    except IndexError:
        raise IndexInvalid("the image index names a parent that comes later") from None
    _check_components(names)
    return tuple(zip(paths, reader.column("I", count), strict=True))


# ---------------------------------------------------------------------- what is allowed


def _check(index: Index) -> None:
    for text in (index.manifest_digest, *index.layers):
        if not _TEXT.fullmatch(text):
            raise IndexInvalid(f"not a digest: {text[:80]!r}")
    _check_inodes(index.inodes)
    _check_paths(index.names)
    _check_places(index.inodes, index.names)
    _check_sizes(index.inodes)


def _check_inodes(inodes: Sequence[Inode]) -> None:
    for number, inode in enumerate(inodes):
        if not _IS_ALLOWED[inode.kind](inode) or not _is_common(inode):
            raise IndexInvalid(f"inode {number} of the image index is not allowed: {inode}"[:400])


def _is_common(inode: Inode) -> bool:
    """What holds for every kind."""
    return (
        0 <= inode.mode <= 0o7777
        and 0 <= inode.uid <= MAX_ID
        and 0 <= inode.gid <= MAX_ID
        and -(2**63) <= inode.mtime_ns < 2**63
        and (not inode.xattrs or _are_xattrs(inode.xattrs))
    )


def _are_xattrs(xattrs: Sequence[tuple[bytes, bytes]]) -> bool:
    names = [name for name, _ in xattrs]
    return (
        all(is_kept_xattr(name) and len(value) <= MAX_XATTR_BYTES for name, value in xattrs)
        and names == sorted(set(names))
        and len(names) < 1 << 16
    )


def _is_file(inode: Inode) -> bool:
    size_bytes = inode.size_bytes
    return (
        0 <= size_bytes <= MAX_SIZE_BYTES
        and (inode.digest is not None) == (size_bytes > 0)
        and (inode.chunks is not None) == (size_bytes > CHUNKED_FROM_BYTES)
        and not inode.target
        and inode.rdev == (0, 0)
    )


def _is_plain(inode: Inode) -> bool:
    """Nothing but metadata."""
    return inode[5:9] == (0, None, b"", (0, 0)) and inode.chunks is None


def _is_symlink(inode: Inode) -> bool:
    target = inode.target
    return (
        0 < len(target) <= MAX_TARGET_BYTES
        and b"\0" not in target
        and inode.mode == 0o777
        and _is_plain(inode._replace(target=b""))
    )


def _is_device(inode: Inode) -> bool:
    major, minor = inode.rdev
    return (
        0 <= major <= MAX_MAJOR
        and 0 <= minor <= MAX_MINOR
        and _is_plain(inode._replace(rdev=(0, 0)))
    )


_IS_ALLOWED: dict[Kind, Callable[[Inode], bool]] = {
    "file": _is_file,
    "dir": _is_plain,
    "symlink": _is_symlink,
    "chr": _is_device,
    "blk": _is_device,
    "fifo": _is_plain,
}


def _check_paths(names: Sequence[tuple[bytes, int]]) -> None:
    if not names or names[0][0]:
        raise IndexInvalid("the image index has no root")
    last = b""
    for path, _ in names[1:]:
        if path <= last:
            raise IndexInvalid(f"the image index is not sorted: {path!r} after {last!r}"[:400])
        last = path
    if max(len(path) for path, _ in names) > MAX_PATH_BYTES:
        raise IndexInvalid("a path of the image index is too long")
    _check_components([path.rpartition(b"/")[2] for path, _ in names[1:]])


def _check_places(inodes: Sequence[Inode], names: Sequence[tuple[bytes, int]]) -> None:
    """Numbers in the order of first names, and every name in a directory."""
    directories: set[bytes] = set()
    known = 0
    for path, number in names:
        if number > known or number >= len(inodes):
            raise IndexInvalid(f"the image index has no inode {number} for {path!r}"[:400])
        is_directory = inodes[number].kind == "dir"
        if number < known and is_directory:
            raise IndexInvalid(f"the image index has a second name for a directory: {path!r}"[:400])
        known = max(known, number + 1)
        if path and (path[0] == _SLASH or path.rpartition(b"/")[0] not in directories):
            raise IndexInvalid(f"the image index has no directory for {path!r}"[:400])
        if is_directory:
            directories.add(path)
    if known != len(inodes) or b"" not in directories:
        raise IndexInvalid("the image index has an inode without a name, or no root directory")


def _check_components(names: Sequence[bytes]) -> None:
    """All names in a few passes that run in C; the guilty one is looked for only when needed."""
    joined = b"/".join(names)
    if (
        joined.count(b"/") != max(len(names) - 1, 0)
        or b"\0" in joined
        or not {b"", b".", b".."}.isdisjoint(names)
        or max(map(len, names), default=0) > MAX_NAME_BYTES
    ):
        guilty = next(name for name in names if not _is_name(name))
        raise IndexInvalid(f"not a file name: {guilty[:40]!r}")


def _is_name(name: bytes) -> bool:
    if not name or len(name) > MAX_NAME_BYTES or name in (b".", b".."):
        return False
    return b"/" not in name and b"\0" not in name


def _check_sizes(inodes: Sequence[Inode]) -> None:
    """One digest, one size: else a reader would be told a wrong one for one of the files."""
    sizes: dict[Digest, int] = {}
    for inode in inodes:
        if inode.digest is None:
            continue
        known = sizes.setdefault(inode.digest, inode.size_bytes) == inode.size_bytes
        if inode.chunks is not None:
            listed = chunk_list_bytes(inode.size_bytes)
            known = known and sizes.setdefault(inode.chunks, listed) == listed
        if not known:
            raise IndexInvalid(f"the image index has two sizes for blob {inode.digest.short}")
