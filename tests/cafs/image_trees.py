"""Indexes of images for tests: said in a line, or drawn by Hypothesis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from devloop.cafs.digest import digest_of
from devloop.cafs.index import CHUNKED_FROM_BYTES, Index, Inode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from devloop.cafs.digest import Digest

MTIME_NS = 1_234_567_890_123_456_789


def directory(mode: int = 0o755, **fields: object) -> Inode:
    return _inode("dir", mode, **fields)


def file(data: bytes, mode: int = 0o644, **fields: object) -> Inode:
    chunks = digest_of(b"chunks of " + data) if len(data) > CHUNKED_FROM_BYTES else None
    digest = digest_of(data) if data else None
    return _inode("file", mode, size_bytes=len(data), digest=digest, chunks=chunks, **fields)


def symlink(target: bytes, **fields: object) -> Inode:
    return _inode("symlink", 0o777, target=target, **fields)


def special(
    kind: str, rdev: tuple[int, int] = (0, 0), mode: int = 0o666, **fields: object
) -> Inode:
    return _inode(kind, mode, rdev=rdev, **fields)


def index_of(tree: Mapping[bytes, Inode | bytes], root: Inode | None = None) -> Index:
    """Of paths and inodes; bytes in the place of an inode are the path of which it is a hard link.

    Parents that are missing are made.
    """
    named: dict[bytes, Inode | bytes] = {b"": root or directory(), **tree}
    for path in tree:
        while path := path.rpartition(b"/")[0]:
            named.setdefault(path, directory())
    numbers: dict[bytes, int] = {}
    inodes = []
    names = []
    for path, what in sorted(named.items()):
        first = what if isinstance(what, bytes) else path
        if first not in numbers:
            numbers[first] = len(inodes)
            inode = named[first]
            assert isinstance(inode, Inode)
            inodes.append(inode)
        names.append((path, numbers[first]))
    return Index(b"{}", "sha256:" + "0" * 64, (), tuple(inodes), tuple(names))


def _inode(kind: str, mode: int, **fields: object) -> Inode:
    given = {"uid": 0, "gid": 0, "mtime_ns": MTIME_NS, **fields}
    return Inode(kind=kind, mode=mode, **given)  # type: ignore[arg-type]  # as the tests say it


# ---------------------------------------------------------------------- drawn

_NAMES = st.one_of(
    st.text("+-.a\x01é", min_size=1, max_size=4).map(str.encode),
    st.binary(min_size=1, max_size=255),
).filter(lambda name: not {b"/", b"\0"} & {name[at : at + 1] for at in range(len(name))})
_PATHS = st.lists(_NAMES.filter(lambda name: name not in (b".", b"..")), min_size=1, max_size=3)
_OWNERS = st.sampled_from([0, 1000, 65534, 65536, 2**32 - 2])
ANY_TIME = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2 * 10**18))
# It clamps others; and an index has 64 bits for ns.
ON_EXT4 = st.integers(-(2**31 - 1) * 10**9, min((2**34 - 2**31 - 1) * 10**9, 2**63 - 1))
_MODES = st.integers(0, 0o7777)
_XATTRS = st.dictionaries(
    st.sampled_from([b"trusted.a", b"trusted.overlayed", b"security.test"]),
    st.one_of(st.binary(max_size=8), st.just(b"v" * 1500)),
    max_size=2,
).map(lambda found: tuple(sorted(found.items())))
_CONTENTS = (b"", b"one", b"two" * 5000, b"three" * 1_000_000)


def _common(times: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries(
        {"uid": _OWNERS, "gid": _OWNERS, "mtime_ns": times, "xattrs": _XATTRS}
    )


@st.composite
def _inodes(draw: st.DrawFn, times: st.SearchStrategy[int]) -> Inode:
    common = draw(_common(times))
    mode = draw(_MODES)
    match draw(st.sampled_from(["dir", "file", "symlink", "chr", "blk", "fifo"])):
        case "dir":
            return directory(mode | 0o700, **common)
        case "file":
            return file(draw(st.sampled_from(_CONTENTS)), mode, **common)
        case "symlink":
            target = draw(st.binary(min_size=1, max_size=200)).replace(b"\0", b"0")
            return symlink(target, **common)
        case "fifo":
            return special("fifo", (0, 0), mode, **common)
        case kind:
            rdev = draw(st.tuples(st.integers(1, 4095), st.integers(0, 2**20 - 1)))
            return special(kind, rdev, mode, **common)


@st.composite
def trees(draw: st.DrawFn, times: st.SearchStrategy[int] = ANY_TIME) -> Index:
    tree: dict[bytes, Inode | bytes] = {}
    for components in draw(st.lists(_PATHS, max_size=12)):
        path = b"/".join(components)
        parents = [b"/".join(components[:end]) for end in range(1, len(components))]
        if path in tree or not all(_may_hold(tree.get(parent)) for parent in parents):
            continue
        if any(other.startswith(path + b"/") for other in tree):
            continue
        firsts = [name for name, what in tree.items() if _may_have_links(what)]
        if firsts and draw(st.booleans()):
            tree[path] = draw(st.sampled_from(firsts))
        else:
            tree[path] = draw(_inodes(times))
    return index_of(tree, directory(draw(_MODES) | 0o700, **draw(_common(times))))


def _may_hold(what: Inode | bytes | None) -> bool:
    return what is None or (isinstance(what, Inode) and what.kind == "dir")


def _may_have_links(what: Inode | bytes) -> bool:
    return isinstance(what, Inode) and what.kind != "dir"


def contents_of(index: Index) -> dict[Digest, bytes]:
    """The blobs of a drawn tree."""
    known = {digest_of(data): data for data in _CONTENTS if data}
    return {inode.digest: known[inode.digest] for inode in index.inodes if inode.digest}
