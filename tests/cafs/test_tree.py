from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.tree import (
    MAGIC,
    Change,
    Dir,
    Entry,
    File,
    Node,
    Symlink,
    TreeInvalid,
    decode_node,
    diff_trees,
    empty_tree,
    encode_node,
    load_tree,
    walk_tree,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VECTORS = json.loads((Path(__file__).parent / "vectors" / "tree-v1.json").read_text())

names = (
    st.binary(min_size=1, max_size=255)
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in (b".", b".."))
)
digests = st.binary(min_size=32, max_size=32).map(Digest)
modes = st.integers(0, 0o777)
files = st.builds(File, modes, st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1), digests)
targets = st.binary(min_size=1, max_size=300).map(lambda target: target.replace(b"\0", b"/"))
entries: st.SearchStrategy[Entry] = (
    files | st.builds(Dir, modes, digests) | st.builds(Symlink, targets)
)
nodes = st.dictionaries(names, entries, max_size=12)

A_FILE = File(0o644, 1, 2, digest_of(b"x"))


def tree(layout: Mapping[bytes, object]) -> Node:
    """A tree from nested dicts; bytes are a file's contents."""
    children = {name: tree(below) for name, below in layout.items() if isinstance(below, dict)}
    listing: dict[bytes, Entry] = {}
    for name, what in layout.items():
        if isinstance(what, bytes):
            listing[name] = File(0o644, len(what), 0, digest_of(what))
        else:
            listing[name] = Dir(0o755, children[name].digest)
    return Node(listing, children)


def nodes_of(root: Node) -> dict[Digest, bytes]:
    found = {root.digest: root.encoded}
    for child in root.children.values():
        found |= nodes_of(child)
    return found


def recording(stored: dict[Digest, bytes]) -> tuple[list[Digest], Callable[[Digest], bytes]]:
    """A `get` for `load_tree`, and the list of what it was asked for."""
    asked: list[Digest] = []

    def get(digest: Digest) -> bytes:
        asked.append(digest)
        return stored[digest]

    return asked, get


def record(kind: int, mode: int, name: bytes, body: bytes) -> bytes:
    return bytes([kind]) + mode.to_bytes(2, "big") + bytes([len(name)]) + name + body


def file_record(name: bytes, mode: int = 0o644) -> bytes:
    return record(1, mode, name, bytes(48))


# ---------------------------------------------------------------- the format


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["what"])
def test_a_vector_decodes_and_encodes_to_itself(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["encoding"])
    assert digest_of(data).hex() == vector["digest"]
    assert [describe(item) for item in decode_node(data).items()] == vector["entries"]
    assert encode_node(decode_node(data)) == data


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: vector["what"])
def test_an_invalid_vector_is_refused(vector: dict[str, str]) -> None:
    with pytest.raises(TreeInvalid):
        decode_node(bytes.fromhex(vector["encoding"]))


def describe(item: tuple[bytes, Entry]) -> list[object]:
    """An entry as the vectors write it."""
    name, entry = item
    match entry:
        case File(mode, size_bytes, mtime_ns, digest):
            return [name.hex(), "file", mode, size_bytes, mtime_ns, digest.hex()]
        case Dir(mode, digest):
            return [name.hex(), "dir", mode, digest.hex()]
        case Symlink(target):
            return [name.hex(), "symlink", target.hex()]


@given(nodes)
def test_what_is_encoded_decodes_to_the_same_entries_in_order(node: dict[bytes, Entry]) -> None:
    decoded = decode_node(encode_node(node))
    assert decoded == node
    assert list(decoded) == sorted(node)
    assert {type(entry.digest) for entry in decoded.values() if isinstance(entry, File)} <= {Digest}


@given(st.binary(max_size=400), nodes, st.data())
@example(b"", {}, None)
def test_bytes_that_decode_at_all_encode_to_themselves(
    noise: bytes, node: dict[bytes, Entry], data: st.DataObject | None
) -> None:
    damaged = bytearray(encode_node(node))
    if data is not None:
        at = data.draw(st.integers(len(MAGIC), len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 3))] = noise[:5]
    for candidate in (noise, MAGIC + noise, bytes(damaged)):
        try:
            decoded = decode_node(candidate)
        except TreeInvalid:
            continue
        assert encode_node(decoded) == candidate


@given(nodes, st.integers(1, 400))
def test_a_cut_off_node_is_refused_or_a_shorter_list(node: dict[bytes, Entry], cut: int) -> None:
    whole = encode_node(node)
    try:
        shorter = decode_node(whole[: max(0, len(whole) - cut)])
    except TreeInvalid:
        return
    assert len(shorter) < len(node)


@pytest.mark.parametrize(
    "name",
    [b"", b".", b"..", b"a/b", b"/etc", b"a\0b", b"x" * 256],
    ids=lambda name: repr(name[:9]),
)
def test_a_name_that_leaves_its_directory_is_refused(name: bytes) -> None:
    with pytest.raises(TreeInvalid, match="not a file name"):
        encode_node({b"good": A_FILE, name: A_FILE})
    if len(name) < 256:
        with pytest.raises(TreeInvalid):
            decode_node(MAGIC + file_record(name))


@pytest.mark.parametrize(
    "entry",
    [
        File(0o1000, 1, 2, digest_of(b"")),
        File(-1, 1, 2, digest_of(b"")),
        File(0o644, -1, 2, digest_of(b"")),
        File(0o644, 2**64, 2, digest_of(b"")),
        File(0o644, 1, 2**63, digest_of(b"")),
        Dir(0o4755, digest_of(b"")),
        Symlink(b""),
        Symlink(b"a\0b"),
        Symlink(b"x" * 4096),
    ],
    ids=repr,
)
def test_an_entry_that_the_format_cannot_hold_is_refused(entry: Entry) -> None:
    with pytest.raises(TreeInvalid):
        encode_node({b"name": entry})


# ---------------------------------------------------------------- whole trees

LAYOUT = {b"a": b"1", b"d": {b"b": b"2", b"e": {b"c": b"3"}}, b"empty": {}}


def test_a_tree_is_loaded_as_it_was_made() -> None:
    made = tree(LAYOUT)
    loaded = load_tree(made.digest, nodes_of(made).__getitem__)
    assert list(walk_tree(loaded)) == list(walk_tree(made))
    assert loaded.digest == made.digest
    assert (loaded.total_entries, loaded.height, loaded.longest_path_bytes) == (6, 2, 5)


def test_walking_lists_a_directory_before_what_is_in_it() -> None:
    paths = [path for path, _ in walk_tree(tree(LAYOUT))]
    assert paths == [b"a", b"d", b"d/b", b"d/e", b"d/e/c", b"empty"]


def test_known_parts_are_shared_and_not_read_again() -> None:
    old, new = tree(LAYOUT), tree({**LAYOUT, b"a": b"changed"})
    read, get = recording(nodes_of(new))
    loaded = load_tree(new.digest, get, old)
    assert read == [new.digest]
    assert loaded.children[b"d"] is old.children[b"d"]


def test_a_diff_names_what_differs_and_enters_no_equal_subtree() -> None:
    old = tree({b"same": {b"x": b"1"}, b"d": {b"b": b"2"}, b"gone": b"3"})
    new = tree({b"same": {b"x": b"1"}, b"d": {b"b": b"9"}, b"new": {b"y": b"4"}})
    changes = list(diff_trees(old, new))
    assert [change.path for change in changes] == [b"d/b", b"gone", b"new", b"new/y"]
    assert changes[1] == Change(b"gone", old.entries[b"gone"], None)
    assert list(diff_trees(old, old)) == []
    assert len(list(diff_trees(None, old))) == old.total_entries


def test_a_node_that_is_not_the_one_asked_for_is_refused() -> None:
    with pytest.raises(TreeInvalid, match="does not hash"):
        load_tree(digest_of(b"another"), lambda _: empty_tree().encoded)


def doubling(levels: int) -> Node:
    """A tree of 2**levels leaves that is made of `levels` + 1 nodes."""
    node = Node({b"leaf": A_FILE}, {})
    for _ in range(levels):
        node = Node(
            {name: Dir(0o755, node.digest) for name in (b"a", b"b")}, {b"a": node, b"b": node}
        )
    return node


def test_a_tree_that_repeats_its_nodes_is_refused_without_being_expanded() -> None:
    bomb = doubling(200)
    reads, get = recording(nodes_once(bomb))
    with pytest.raises(TreeInvalid, match="more than 4,000,000 entries"):
        load_tree(bomb.digest, get)
    assert len(reads) == 201
    small = doubling(5)
    assert load_tree(small.digest, nodes_once(small).__getitem__).total_entries == 94


def nodes_once(bomb: Node) -> dict[Digest, bytes]:
    found = {}
    node: Node | None = bomb
    while node is not None:
        found[node.digest] = node.encoded
        node = node.children.get(b"a")
    return found


def test_a_tree_with_too_many_entries_is_refused() -> None:
    made = tree({b"%d" % number: b"" for number in range(20)})
    get = nodes_of(made).__getitem__
    assert load_tree(made.digest, get, max_entries=20).total_entries == 20
    with pytest.raises(TreeInvalid, match="more than 19 entries"):
        load_tree(made.digest, get, max_entries=19)


def chain(levels: int, name: bytes) -> Node:
    node = empty_tree()
    for _ in range(levels):
        node = Node({name: Dir(0o755, node.digest)}, {name: node})
    return node


def test_a_tree_may_be_256_directories_deep_and_no_deeper() -> None:
    deep = chain(256, b"d")
    assert load_tree(deep.digest, nodes_of(deep).__getitem__).height == 256
    deeper = chain(257, b"d")
    with pytest.raises(TreeInvalid, match="deeper than 256"):
        load_tree(deeper.digest, nodes_of(deeper).__getitem__)
    assert load_tree(deep.digest, nodes_of(deep).__getitem__, known=deep) is deep


def test_a_path_may_be_4095_bytes_and_no_longer() -> None:
    fits = chain(16, b"x" * 255)
    assert fits.longest_path_bytes == 4095
    load_tree(fits.digest, nodes_of(fits).__getitem__)
    too_long = Node({b"a": Dir(0o755, fits.digest)}, {b"a": fits})
    with pytest.raises(TreeInvalid, match="longer than 4095"):
        load_tree(too_long.digest, nodes_of(too_long).__getitem__)
