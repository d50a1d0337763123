"""Trees written down as plain values, stored for a workspace, and read back from a directory."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from hypothesis import strategies as st

from devloop.cafs.digest import digest_of
from devloop.cafs.tree import Dir, Entry, File, Node, Symlink, encode_node
from devloop.remote_agent.receive import MAX_PIECE_BYTES, Receiver

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from devloop.cafs.store import BlobStore
    from devloop.remote_agent.ahead import Ahead
    from devloop.remote_agent.workspace import Workspace

MTIME_NS = 1_600_000_000_123_456_789


class AFile(NamedTuple):
    data: bytes
    mode: int = 0o644
    mtime_ns: int = MTIME_NS


class ALink(NamedTuple):
    target: bytes


class ADir(NamedTuple):
    """With what is in it; `mode` as on the box, with the owner's rwx."""

    entries: Mapping[bytes, Thing]
    mode: int = 0o755


Thing: TypeAlias = AFile | ALink | ADir
Flat: TypeAlias = dict[bytes, AFile | ALink | int]  # a directory is its mode


def make_tree(store: BlobStore, entries: Mapping[bytes, Thing]) -> Node:
    """The tree, with all its blobs in the store."""
    made: dict[bytes, Entry] = {}
    children: dict[bytes, Node] = {}
    for name, thing in entries.items():
        match thing:
            case AFile(data, mode, mtime_ns):
                digest = digest_of(data)
                store.put(digest, data)
                made[name] = File(mode, len(data), mtime_ns, digest)
            case ALink(target):
                made[name] = Symlink(target)
            case ADir(below, mode):
                children[name] = make_tree(store, below)
                made[name] = Dir(mode, children[name].digest)
    node = Node(made, children)
    store.put(node.digest, node.encoded)
    return node


def flat(entries: Mapping[bytes, Thing], prefix: bytes = b"") -> Flat:
    found: Flat = {}
    for name, thing in entries.items():
        if isinstance(thing, ADir):
            found[prefix + name] = thing.mode | 0o700
            found |= flat(thing.entries, prefix + name + b"/")
        else:
            found[prefix + name] = thing
    return found


def look(directory: Path | bytes, prefix: bytes = b"") -> Flat:
    """What is really there, by descriptor: paths may be longer than the kernel takes at once."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _look_at(fd, prefix)
    finally:
        os.close(fd)


def _look_at(fd: int, prefix: bytes) -> Flat:
    found: Flat = {}
    for name in map(os.fsencode, os.listdir(fd)):
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISLNK(status.st_mode):
            found[prefix + name] = ALink(os.readlink(name, dir_fd=fd))
            continue
        below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
        try:
            if stat.S_ISDIR(status.st_mode):
                found[prefix + name] = mode
                found |= _look_at(below, prefix + name + b"/")
            else:
                data = os.read(below, status.st_size + 1)
                found[prefix + name] = AFile(data, mode, status.st_mtime_ns)
        finally:
            os.close(below)
    return found


def send(receiver: Receiver, folder: bytes, files: Mapping[bytes, AFile]) -> None:
    entries = {
        name: File(file.mode, len(file.data), file.mtime_ns, digest_of(file.data))
        for name, file in files.items()
    }
    data = b"".join(files[name].data for name in sorted(files))
    receiver.files(folder, encode_node(entries), data, zstd=False)


def send_all(receiver: Receiver, project: Mapping[bytes, Thing], folder: bytes = b"") -> None:
    files = {
        name: thing
        for name, thing in project.items()
        if isinstance(thing, AFile) and len(thing.data) <= MAX_PIECE_BYTES
    }
    if files:
        send(receiver, folder, files)
    for name, thing in project.items():
        if isinstance(thing, ADir):
            send_all(receiver, thing.entries, folder + b"/" + name if folder else name)


def send_ahead(workspace: Workspace, project: Mapping[bytes, Thing]) -> Ahead:
    ahead = workspace.ahead.begin()
    assert ahead is not None
    with Receiver(workspace._store) as receiver:
        receiver.ahead = ahead
        send_all(receiver, project)
    workspace.ahead.end(ahead)
    return ahead


# Few names, so that paths meet again as another kind of thing; "a-b" sorts between "a" and "a/".
NAMES = [b"a", b"b", b"a-b", b"m.py", b"\xff"]
_files = st.builds(
    AFile,
    data=st.sampled_from([b"", b"1", b"2", b"x = 1\n", b"x = 2\n"]),
    mode=st.sampled_from([0o644, 0o755, 0o444, 0o600, 0o666]),
    mtime_ns=st.sampled_from([0, 1, MTIME_NS, MTIME_NS + 1]),
)
_links = st.builds(ALink, st.sampled_from([b"a", b"..", b"/etc", b"nowhere"]))


def _directories(things: st.SearchStrategy[Thing]) -> st.SearchStrategy[Thing]:
    entries = st.dictionaries(st.sampled_from(NAMES), things, max_size=4)
    return st.builds(ADir, entries, st.sampled_from([0o755, 0o700, 0o555, 0o777]))


things: st.SearchStrategy[Thing] = st.recursive(_files | _links, _directories, max_leaves=8)
projects = st.dictionaries(st.sampled_from(NAMES), things, max_size=4)
