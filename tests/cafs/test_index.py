from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.index import (
    CHUNKED_FROM_BYTES,
    MAGIC,
    Index,
    IndexInvalid,
    Inode,
    chunk_list_bytes,
    is_kept_xattr,
)

if TYPE_CHECKING:
    from collections.abc import Callable

VECTORS = json.loads((Path(__file__).parent / "vectors" / "index-v1.json").read_text())
MANIFEST = "sha256:" + "ab" * 32
ROOT = Inode("dir", 0o755, 0, 0, 0)
LARGE = CHUNKED_FROM_BYTES + 1

names = (
    st.binary(min_size=1, max_size=255)
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in (b".", b".."))
)
ids = st.integers(0, 2**32 - 2)
xattrs = st.dictionaries(
    st.sampled_from([b"user.a", b"security.capability", b"trusted.x", b"system.posix_acl_access"]),
    st.binary(max_size=80),
).map(lambda found: tuple(sorted(found.items())))


def inodes(kind: str, **fields: Any) -> st.SearchStrategy[Inode]:
    common = {"uid": ids, "gid": ids, "mtime_ns": st.integers(-(2**63), 2**63 - 1)}
    mode = st.just(0o777) if kind == "symlink" else st.integers(0, 0o7777)
    plain = {"size_bytes": st.just(0), "target": st.just(b""), "rdev": st.just((0, 0))}
    none = {"digest": st.none(), "chunks": st.none()}
    return st.builds(Inode, st.just(kind), mode, xattrs=xattrs, **(plain | none | common | fields))


def sized(inode: Inode) -> Inode:
    """A digest stands for one size: here it is made from it."""
    size = inode.size_bytes
    return inode._replace(
        digest=digest_of(b"%d" % size) if size else None,
        chunks=digest_of(b"chunks %d" % size) if size > CHUNKED_FROM_BYTES else None,
    )


sizes = st.sampled_from([0, 1, CHUNKED_FROM_BYTES, LARGE, 2**63 - 1]) | st.integers(0, 2**63 - 1)
devices = st.tuples(st.integers(0, 2**12 - 1), st.integers(0, 2**20 - 1))
targets = st.binary(min_size=1, max_size=300).map(lambda target: target.replace(b"\0", b"/"))
directories = inodes("dir")
leaves = (
    inodes("file", size_bytes=sizes).map(sized)
    | inodes("symlink", target=targets)
    | inodes("chr", rdev=devices)
    | inodes("blk", rdev=devices)
    | inodes("fifo")
)


@st.composite
def indexes(draw: st.DrawFn) -> Index:
    """Some directories inside each other, and leaves in them, a few with several names."""
    found: dict[bytes, Inode] = {b"": draw(directories)}
    for inode in draw(st.lists(directories, max_size=4)):
        found[_below(draw, found)] = inode
    places = sorted(found)
    for inode in draw(st.lists(leaves, max_size=6)):
        for _ in range(draw(st.integers(1, 3))):
            parent = draw(st.sampled_from(places))
            path = (parent + b"/" if parent else b"") + draw(names)
            found.setdefault(path, inode)
    return numbered(found, draw(st.binary(max_size=50)))


def _below(draw: st.DrawFn, found: dict[bytes, Inode]) -> bytes:
    parent = draw(st.sampled_from(sorted(found)))
    return (parent + b"/" if parent else b"") + draw(names)


def numbered(found: dict[bytes, Inode], config: bytes = b"{}") -> Index:
    """Of paths; one value at several of them is one file."""
    numbers: dict[int, int] = {}
    listed: list[Inode] = []
    places: list[tuple[bytes, int]] = []
    for path in sorted(found):
        if id(found[path]) not in numbers:
            numbers[id(found[path])] = len(listed)
            listed.append(found[path])
        places.append((path, numbers[id(found[path])]))
    return Index(config, MANIFEST, (MANIFEST,), tuple(listed), tuple(places))


@given(indexes())
def test_what_is_encoded_is_decoded_and_encodes_to_the_same_bytes(index: Index) -> None:
    data = index.encode()
    decoded = Index.decode(data)
    assert decoded == index
    assert decoded.encode() == data


@given(indexes(), st.data())
def test_a_changed_byte_is_refused_or_another_index_of_one_encoding(
    index: Index, data: st.DataObject
) -> None:
    encoded = bytearray(index.encode())
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        decoded = Index.decode(bytes(encoded))
    except IndexInvalid:
        return
    assert decoded != index
    assert decoded.encode() == bytes(encoded)


@given(indexes(), st.data())
def test_what_is_cut_off_or_goes_on_is_refused(index: Index, data: st.DataObject) -> None:
    encoded = index.encode()
    with pytest.raises(IndexInvalid):
        Index.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(IndexInvalid):
        Index.decode(encoded + b"\0")


@given(st.binary(max_size=300))
def test_any_bytes_are_an_index_or_refused(data: bytes) -> None:
    for candidate in (data, MAGIC + data):
        try:
            Index.decode(candidate)
        except IndexInvalid:
            continue


@pytest.mark.parametrize("vector", VECTORS["indexes"], ids=lambda vector: vector["what"])
def test_the_vectors_are_what_the_encoder_writes(vector: dict[str, str]) -> None:
    data = bytes.fromhex(vector["encoded"])
    index = Index.decode(data)
    assert vector["value"] == repr(index)
    assert index.encode() == data
    assert digest_of(data).hex() == vector["digest"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["what"])
def test_the_vectors_that_are_refused_are_refused_for_their_reason(vector: dict[str, str]) -> None:
    with pytest.raises(IndexInvalid, match=vector["match"]):
        Index.decode(bytes.fromhex(vector["encoded"]))


FILE = Inode("file", 0o644, 0, 0, 0, 1, digest_of(b"x"))
HOSTILE: dict[str, Callable[[], Index]] = {
    "an empty name": lambda: numbered({b"": ROOT, b"a": ROOT._replace(uid=1), b"a/": FILE}),
    "dot": lambda: numbered({b"": ROOT, b".": FILE}),
    "dot dot": lambda: numbered({b"": ROOT, b"..": FILE}),
    "dot dot below": lambda: numbered({b"": ROOT, b"..": ROOT._replace(uid=1), b"../x": FILE}),
    "an absolute path": lambda: numbered({b"": ROOT, b"/etc": FILE}),
    "a NUL": lambda: numbered({b"": ROOT, b"a\0b": FILE}),
    "a long name": lambda: numbered({b"": ROOT, b"x" * 256: FILE}),
    "no parent": lambda: numbered({b"": ROOT, b"a/b": FILE}),
    "a file for a parent": lambda: numbered({b"": ROOT, b"a": FILE, b"a/b": FILE._replace(uid=1)}),
    "a link for a parent": lambda: numbered(
        {b"": ROOT, b"a": Inode("symlink", 0o777, 0, 0, 0, target=b"/"), b"a/b": FILE}
    ),
    "no root": lambda: numbered({b"a": FILE}),
    "a root that is a file": lambda: numbered({b"": FILE}),
    "nothing": lambda: numbered({}),
    "a directory with two names": lambda: numbered({b"": ROOT, b"a": ROOT}),
    "an overlay's attribute": lambda: numbered(
        {b"": ROOT, b"a": FILE._replace(xattrs=((b"trusted.overlay.redirect", b"/x"),))}
    ),
    "an attribute of nobody's": lambda: numbered(
        {b"": ROOT, b"a": FILE._replace(xattrs=((b"foo.bar", b""),))}
    ),
    "attributes out of order": lambda: numbered(
        {b"": ROOT, b"a": FILE._replace(xattrs=((b"user.b", b""), (b"user.a", b"")))}
    ),
    "the owner nobody can have": lambda: numbered({b"": ROOT._replace(uid=2**32 - 1)}),
    "more than permission bits": lambda: numbered({b"": ROOT._replace(mode=0o10755)}),
    "a time beyond 64 bits": lambda: numbered({b"": ROOT._replace(mtime_ns=2**63)}),
    "a file without a digest": lambda: numbered({b"": ROOT, b"a": FILE._replace(digest=None)}),
    "an empty file with a digest": lambda: numbered({b"": ROOT, b"a": FILE._replace(size_bytes=0)}),
    "a large file without chunks": lambda: numbered(
        {b"": ROOT, b"a": FILE._replace(size_bytes=LARGE)}
    ),
    "one digest of two sizes": lambda: numbered(
        {b"": ROOT, b"a": FILE, b"b": FILE._replace(size_bytes=2)}
    ),
    "a symbolic link to nowhere": lambda: numbered(
        {b"": ROOT, b"a": Inode("symlink", 0o777, 0, 0, 0)}
    ),
    "a symbolic link with a mode": lambda: numbered(
        {b"": ROOT, b"a": Inode("symlink", 0o700, 0, 0, 0, target=b"x")}
    ),
    "a device that no kernel has": lambda: numbered(
        {b"": ROOT, b"a": Inode("chr", 0, 0, 0, 0, rdev=(4096, 0))}
    ),
    "a directory with a device number": lambda: numbered({b"": ROOT._replace(rdev=(1, 3))}),
    "a manifest that is no digest": lambda: numbered({b"": ROOT})._replace(manifest_digest="../x"),
    "an inode without a name": lambda: numbered({b"": ROOT})._replace(inodes=(ROOT, FILE)),
    "a name without an inode": lambda: numbered({b"": ROOT})._replace(names=((b"", 0), (b"a", 1))),
    "names out of order": lambda: Index(
        b"", MANIFEST, (), (ROOT, FILE, FILE), ((b"", 0), (b"b", 1), (b"a", 2))
    ),
    "a path twice": lambda: Index(
        b"", MANIFEST, (), (ROOT, FILE, FILE), ((b"", 0), (b"a", 1), (b"a", 2))
    ),
    "a path longer than the kernel's": lambda: numbered(
        {b"/".join([b"x" * 200] * n): ROOT._replace(uid=n) for n in range(22)}
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_not_safe_is_never_encoded(what: str) -> None:
    with pytest.raises(IndexInvalid):
        HOSTILE[what]().encode()


def test_blobs_are_the_contents_and_the_chunk_lists() -> None:
    small = Inode("file", 0o644, 0, 0, 0, 3, digest_of(b"abc"))
    large = sized(Inode("file", 0o644, 0, 0, 0, LARGE))
    index = numbered({b"": ROOT, b"empty": Inode("file", 0, 0, 0, 0), b"l": large, b"s": small})
    assert index.blobs() == {digest_of(b"abc"): 3, large.digest: LARGE, large.chunks: 17 * 32}
    assert chunk_list_bytes(LARGE) == 17 * 32


def test_kept_attributes_are_those_of_the_image_itself() -> None:
    kept = [b"user.x", b"security.capability", b"trusted.x", b"system.posix_acl_default"]
    assert all(map(is_kept_xattr, kept))
    dropped = [b"trusted.overlay.opaque", b"user.overlay.redirect", b"security.selinux", b"user."]
    dropped += [b"system.nfs4_acl", b"", b"plain", b"user.a\0", b"user." + b"x" * 251]
    assert not any(map(is_kept_xattr, dropped))


def test_an_index_of_50_000_entries_is_decoded_in_well_under_half_a_second() -> None:
    found: dict[bytes, Inode] = {b"": ROOT}
    for number in range(500):
        found[b"usr/%03d" % number] = ROOT._replace(uid=number)
        for leaf in range(100):
            name = b"%d-%d" % (number, leaf)
            path = b"usr/%03d/a-module-of-some-name-%s.py" % (number, name)
            found[path] = Inode("file", 0o644, 0, 0, leaf, 1000, digest_of(name))
    found[b"usr"] = ROOT._replace(gid=1)
    data = numbered(found).encode()
    took_s = min(_timed(data) for _ in range(3))
    print(f"{len(found):,} entries, {len(data):,} bytes, decoded in {took_s * 1000:.0f} ms")
    assert took_s < 0.5


def _timed(data: bytes) -> float:
    start = time.perf_counter()
    Index.decode(data)
    return time.perf_counter() - start


def test_digests_are_digests() -> None:
    index = numbered({b"": ROOT, b"a": FILE})
    assert all(type(digest) is Digest for digest in Index.decode(index.encode()).blobs())
