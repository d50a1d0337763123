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

from .digest import DIGEST_BYTES, Digest, digest_of
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

_FILE, _DIR, _SYMLINK = 1, 2, 3
_HEAD = struct.Struct(">BHB")
_FILE_BODY = struct.Struct(">Qq32s")
_TARGET_LEN = struct.Struct(">H")


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
    """One directory of a tree, with its subdirectories below it. Immutable by convention."""

    __slots__ = ("children", "digest", "encoded", "entries")

    def __init__(self, entries: Mapping[bytes, Entry], children: Mapping[bytes, Node]) -> None:
        """`children` holds the node of every `Dir` in `entries`.

        Raises TreeInvalid for a name, mode or target that the format does not allow.
        """
        self.entries = entries
        self.children = children
        self.encoded = encode_node(entries)
        self.digest = digest_of(self.encoded)

    def __repr__(self) -> str:
        return f"Node({self.digest.short}…, {len(self.entries)} entries)"


class Change(NamedTuple):
    """One path that differs between two trees; None stands for absence."""

    path: bytes
    old: Entry | None
    new: Entry | None


def encode_node(entries: Mapping[bytes, Entry]) -> bytes:
    parts = [MAGIC]
    for name in sorted(entries):
        entry = entries[name]
        _check_name(name)
        match entry:
            case File(mode, size_bytes, mtime_ns, digest):
                head = _HEAD.pack(_FILE, _checked_mode(mode), len(name))
                body = _FILE_BODY.pack(size_bytes, mtime_ns, digest)
            case Dir(mode, digest):
                head, body = _HEAD.pack(_DIR, _checked_mode(mode), len(name)), digest
            case Symlink(target):
                _check_target(target)
                head = _HEAD.pack(_SYMLINK, 0, len(name))
                body = _TARGET_LEN.pack(len(target)) + target
        parts += (head, name, body)
    return b"".join(parts)


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
    except struct.error as error:
        raise TreeInvalid(f"tree node is cut off at byte {offset}") from error
    return entries


def _decode_entry(data: bytes, offset: int) -> tuple[bytes, Entry, int]:
    kind, mode, name_len = _HEAD.unpack_from(data, offset)
    offset += _HEAD.size
    name = _take(data, offset, name_len)
    _check_name(name)
    offset += name_len
    if kind == _FILE:
        size_bytes, mtime_ns, digest = _FILE_BODY.unpack_from(data, offset)
        entry: Entry = File(_checked_mode(mode), size_bytes, mtime_ns, Digest(digest))
        return name, entry, offset + _FILE_BODY.size
    if kind == _DIR:
        entry = Dir(_checked_mode(mode), Digest(_take(data, offset, DIGEST_BYTES)))
        return name, entry, offset + DIGEST_BYTES
    if kind == _SYMLINK and mode == 0:
        (target_len,) = _TARGET_LEN.unpack_from(data, offset)
        offset += _TARGET_LEN.size
        target = _take(data, offset, target_len)
        _check_target(target)
        return name, Symlink(target), offset + target_len
    raise TreeInvalid(f"tree node has an entry of kind {kind}, mode {mode:o}")


def _take(data: bytes, offset: int, size: int) -> bytes:
    piece = data[offset : offset + size]
    if len(piece) != size:
        raise TreeInvalid(f"tree node is cut off at byte {offset}")
    return piece


def _check_name(name: bytes) -> None:
    if not name or len(name) > MAX_NAME_BYTES or name in (b".", b".."):
        raise TreeInvalid(f"not a file name: {name[:40]!r}")
    if b"/" in name or b"\0" in name:
        raise TreeInvalid(f"not a file name: {name[:40]!r}")


def _check_target(target: bytes) -> None:
    if not target or len(target) > MAX_TARGET_BYTES or b"\0" in target:
        raise TreeInvalid(f"not a link target: {target[:40]!r}")


def _checked_mode(mode: int) -> int:
    if not 0 <= mode <= 0o777:
        raise TreeInvalid(f"not permission bits: {mode:o}")
    return mode


def empty_tree() -> Node:
    return Node({}, {})


def load_tree(digest: Digest, get: Callable[[Digest], bytes], known: Node | None = None) -> Node:
    """The tree of that name, its nodes read through `get`; parts that `known` has are shared.

    `get` raises for a blob that is absent or corrupt; that passes through.
    Raises TreeInvalid for a node that is malformed, or a tree deeper than 256 directories.
    """
    return _load(digest, get, known, depth=0, path_bytes=0)


def _load(
    digest: Digest, get: Callable[[Digest], bytes], known: Node | None, depth: int, path_bytes: int
) -> Node:
    if known is not None and known.digest == digest:
        return known
    if depth > MAX_DEPTH:
        raise TreeInvalid(f"tree is deeper than {MAX_DEPTH} directories")
    entries = decode_node(get(digest))
    children: dict[bytes, Node] = {}
    for name, entry in entries.items():
        length = path_bytes + len(name) + 1
        if length > MAX_PATH_BYTES:
            raise TreeInvalid(f"tree has a path longer than {MAX_PATH_BYTES} bytes: …/{name!r}")
        if isinstance(entry, Dir):
            below = known.children.get(name) if known is not None else None
            children[name] = _load(entry.digest, get, below, depth + 1, length)
    return Node(entries, children)


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
