"""Trees: canonical listings of directories, named by the digest of their encoding.

A tree is a Merkle tree with one node a directory, so that a save costs the depth of the changed
file and not the size of the project, and unchanged directories are shared between versions.

Format, version 1 (all integers big-endian)
    node    = magic entry*                     entries strictly ascending by name (byte order)
    magic   = "dltree" 0x00 0x01
    entry   = kind:u8 mode:u16 name_len:u8 name body
    body    = size:u64 mtime_ns:i64 digest:32  kind 1, a regular file
            | digest:32                        kind 2, a directory; digest of its node
            | target_len:u16 target            kind 3, a symbolic link; mode is 0
    name    = 1 to 255 bytes, without NUL and "/", not "." and not ".."
    mode    = permission bits, at most 0o777
    target  = 1 to 4095 bytes without NUL
Every tree has exactly one encoding; `decode_node` refuses any other.
Times and permission bits of directories: only the permission bits are kept.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .digest import Digest, digest_of
from .errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "Change",
    "Dir",
    "Entry",
    "File",
    "Node",
    "Symlink",
    "TreeInvalid",
    "decode_node",
    "diff_trees",
    "empty_tree",
    "encode_node",
    "load_tree",
    "walk_tree",
]

MAGIC = b"dltree\x00\x01"
MAX_NAME_BYTES = 255
MAX_TARGET_BYTES = 4095
MAX_PATH_BYTES = 4095
MAX_DEPTH = 256

MAX_ENTRIES = 4_000_000

_FILE, _DIR, _SYMLINK = 1, 2, 3
_MODE_LIMIT = 0o1000
# One record layout for each length of name: packing a whole record in one call is what makes
# encoding and decoding fast.
_FILE_RECORDS = tuple(struct.Struct(f">BHB{n}sQq32s") for n in range(MAX_NAME_BYTES + 1))
_DIR_RECORDS = tuple(struct.Struct(f">BHB{n}s32s") for n in range(MAX_NAME_BYTES + 1))
_SYMLINK_RECORDS = tuple(struct.Struct(f">BHB{n}sH") for n in range(MAX_NAME_BYTES + 1))


class TreeInvalid(StoreError):
    """Bytes that claim to be a tree node are not one, or could name something outside its root."""

    hint = "the sender is broken or hostile; if it is devloop itself, report it"


class File(NamedTuple):
    mode: int  # permission bits
    size_bytes: int
    mtime_ns: int
    digest: Digest


class Dir(NamedTuple):
    mode: int
    digest: Digest  # of the directory's own node


class Symlink(NamedTuple):
    target: bytes


Entry: TypeAlias = File | Dir | Symlink


class Node:
    """One directory of a tree, with its subdirectories below it. Immutable by convention.

    `total_entries`, `height` and `longest_path_bytes` are of the whole tree below, so that limits
    are checked without walking it.
    """

    __slots__ = (
        "children",
        "digest",
        "encoded",
        "entries",
        "height",
        "longest_path_bytes",
        "total_entries",
    )

    def __init__(
        self,
        entries: Mapping[bytes, Entry],
        children: Mapping[bytes, Node],
        encoded: bytes | None = None,
    ) -> None:
        """`children` holds the node of every `Dir` in `entries`; `encoded` is their encoding,
        when the caller has just decoded it.

        Raises TreeInvalid for a name, mode or target that the format does not allow.
        """
        self.entries = entries
        self.children = children
        self.encoded = encode_node(entries) if encoded is None else encoded
        self.digest = digest_of(self.encoded)
        below = children.values()
        self.total_entries: int = len(entries) + sum(node.total_entries for node in below)
        self.height: int = 1 + max((node.height for node in below), default=-1)
        self.longest_path_bytes: int = max(
            max(map(len, entries), default=0),
            max((_path_bytes(name, node) for name, node in children.items()), default=0),
        )

    def __repr__(self) -> str:
        return f"Node({self.digest.short}…, {len(self.entries)} entries)"


def _path_bytes(name: bytes, node: Node) -> int:
    """The longest path through a directory of that name."""
    return len(name) + (1 + node.longest_path_bytes if node.entries else 0)


class Change(NamedTuple):
    """One path that differs between two trees; None stands for absence."""

    path: bytes
    old: Entry | None
    new: Entry | None


def encode_node(entries: Mapping[bytes, Entry]) -> bytes:
    """The one encoding of a directory. Raises TreeInvalid for what the format does not allow."""
    _check_names(entries)
    parts = [MAGIC]
    try:
        for name in sorted(entries):
            parts.append(_encode_entry(name, entries[name]))
    except struct.error as error:
        raise TreeInvalid(f"not a size, time or mode in {name!r}: {entries[name]}") from error
    return b"".join(parts)


def _encode_entry(name: bytes, entry: Entry) -> bytes:
    if isinstance(entry, File):
        mode, size_bytes, mtime_ns, digest = entry
        _check_mode(mode)
        record = _FILE_RECORDS[len(name)]
        return record.pack(_FILE, mode, len(name), name, size_bytes, mtime_ns, digest)
    if isinstance(entry, Dir):
        _check_mode(entry.mode)
        return _DIR_RECORDS[len(name)].pack(_DIR, entry.mode, len(name), name, entry.digest)
    target = entry.target
    _check_target(target)
    head = _SYMLINK_RECORDS[len(name)].pack(_SYMLINK, 0, len(name), name, len(target))
    return head + target


def decode_node(data: bytes) -> dict[bytes, Entry]:
    """The entries of an encoded node, in order. Raises TreeInvalid unless `data` is canonical."""
    if not data.startswith(MAGIC):
        raise TreeInvalid(f"not a tree node: starts with {data[:8]!r}")
    entries: dict[bytes, Entry] = {}
    previous = b""
    offset = len(MAGIC)
    try:
        while offset < len(data):
            name, entry, offset = _decode_entry(data, offset)
            if name <= previous:
                raise TreeInvalid(f"tree node is not sorted: {name!r} after {previous!r}")
            entries[name] = entry
            previous = name
    except (struct.error, IndexError) as error:
        raise TreeInvalid(f"tree node is cut off in the entry at byte {offset}") from error
    _check_names(entries)
    return entries


def _decode_entry(data: bytes, offset: int) -> tuple[bytes, Entry, int]:
    """Checks everything but the name."""
    kind, name_len = data[offset], data[offset + 3]
    if kind == _FILE:
        record = _FILE_RECORDS[name_len]
        _, mode, _, name, size_bytes, mtime_ns, digest = record.unpack_from(data, offset)
        _check_mode(mode)
        entry: Entry = File(mode, size_bytes, mtime_ns, _as_digest(Digest, digest))
        return name, entry, offset + record.size
    if kind == _DIR:
        record = _DIR_RECORDS[name_len]
        _, mode, _, name, digest = record.unpack_from(data, offset)
        _check_mode(mode)
        return name, Dir(mode, _as_digest(Digest, digest)), offset + record.size
    if kind == _SYMLINK:
        return _decode_symlink(data, offset, _SYMLINK_RECORDS[name_len])
    raise TreeInvalid(f"tree node has an entry of kind {kind}")


def _decode_symlink(data: bytes, offset: int, record: struct.Struct) -> tuple[bytes, Entry, int]:
    _, mode, _, name, target_len = record.unpack_from(data, offset)
    if mode:
        raise TreeInvalid(f"tree node has a symbolic link of mode {mode:o}")
    start = offset + record.size
    target = data[start : start + target_len]
    if len(target) != target_len:
        raise TreeInvalid(f"tree node is cut off at byte {start}")
    _check_target(target)
    return name, Symlink(target), start + target_len


# A record's digest has its 32 bytes already: skip the check of Digest's constructor.
_as_digest = bytes.__new__


def _check_names(entries: Mapping[bytes, Entry]) -> None:
    """All names in a few passes that run in C; the guilty one is looked for only when needed."""
    joined = b"/".join(entries)
    if (
        joined.count(b"/") != max(len(entries) - 1, 0)
        or b"\0" in joined
        or b"" in entries
        or b"." in entries
        or b".." in entries
        or max(map(len, entries), default=0) > MAX_NAME_BYTES
    ):
        guilty = next(name for name in entries if not _is_name(name))
        raise TreeInvalid(f"not a file name: {guilty[:40]!r}")


def _is_name(name: bytes) -> bool:
    if not name or len(name) > MAX_NAME_BYTES or name in (b".", b".."):
        return False
    return b"/" not in name and b"\0" not in name


def _check_target(target: bytes) -> None:
    if not target or len(target) > MAX_TARGET_BYTES or b"\0" in target:
        raise TreeInvalid(f"not a link target: {target[:40]!r}")


def _check_mode(mode: int) -> None:
    if not 0 <= mode < _MODE_LIMIT:
        raise TreeInvalid(f"not permission bits: {mode:o}")


def empty_tree() -> Node:
    return Node({}, {})


def load_tree(
    digest: Digest,
    get: Callable[[Digest], bytes],
    known: Node | None = None,
    *,
    max_entries: int = MAX_ENTRIES,
) -> Node:
    """The tree of that name, its nodes read through `get`; parts that `known` has are shared.

    `get` raises for a blob that is absent or corrupt; that passes through.
    Raises TreeInvalid for a node that is malformed, and for a tree deeper than 256 directories,
    with a path longer than 4095 bytes, or with more than `max_entries` entries.
    """
    return _Loader(get, max_entries).load(digest, known, 0)


class _Loader:
    """Reads each node once, however often a hostile tree repeats it."""

    def __init__(self, get: Callable[[Digest], bytes], max_entries: int) -> None:
        self._get = get
        self._max_entries = max_entries
        self._loaded: dict[Digest, Node] = {}

    def load(self, digest: Digest, known: Node | None, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise TreeInvalid(f"tree is deeper than {MAX_DEPTH} directories")
        node = known if known is not None and known.digest == digest else self._loaded.get(digest)
        if node is None:
            node = self._loaded[digest] = self._read(digest, known, depth)
        self._check_limits(node, depth)
        return node

    def _read(self, digest: Digest, known: Node | None, depth: int) -> Node:
        data = self._get(digest)
        entries = decode_node(data)
        children: dict[bytes, Node] = {}
        for name, entry in entries.items():
            if type(entry) is Dir:
                below = known.children.get(name) if known is not None else None
                if below is None or below.digest != entry.digest:
                    below = self.load(entry.digest, below, depth + 1)
                # The limits of a known one are checked with this node's, which hold them.
                children[name] = below
        node = Node(entries, children, data)
        if node.digest != digest:
            raise TreeInvalid(f"tree node {digest.short} does not hash to its name")
        return node

    def _check_limits(self, node: Node, depth: int) -> None:
        if node.total_entries > self._max_entries:
            raise TreeInvalid(f"tree has more than {self._max_entries:,} entries")
        if depth + node.height > MAX_DEPTH:
            raise TreeInvalid(f"tree is deeper than {MAX_DEPTH} directories")
        if node.longest_path_bytes > MAX_PATH_BYTES:
            raise TreeInvalid(f"tree has a path longer than {MAX_PATH_BYTES} bytes")


def walk_tree(node: Node, prefix: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
    """Every (path, entry), a directory before what is in it."""
    for name, entry in node.entries.items():
        path = prefix + name
        yield path, entry
        if isinstance(entry, Dir):
            yield from walk_tree(node.children[name], path + b"/")


def diff_trees(old: Node | None, new: Node | None, prefix: bytes = b"") -> Iterator[Change]:
    """What differs, directories before what is in them; equal subtrees are never entered."""
    if old is not None and new is not None and old.digest == new.digest:
        return
    old_entries: Mapping[bytes, Entry] = old.entries if old is not None else {}
    new_entries: Mapping[bytes, Entry] = new.entries if new is not None else {}
    for name in sorted(old_entries.keys() | new_entries.keys()):
        before, after = old_entries.get(name), new_entries.get(name)
        if before == after:
            continue
        path = prefix + name
        if not (isinstance(before, Dir) and isinstance(after, Dir) and before.mode == after.mode):
            yield Change(path, before, after)
        yield from diff_trees(
            old.children.get(name) if old is not None else None,
            new.children.get(name) if new is not None else None,
            path + b"/",
        )
