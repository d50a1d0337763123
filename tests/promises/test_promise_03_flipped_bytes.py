"""Promise 3: flipped bits are found, never served, and healed from the other side."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.digest import digest_of
from devloop.cafs.errors import BlobCorrupt
from devloop.cafs.store import DiskStore
from devloop.cafs.tree import Dir, File, Node, Symlink, load_tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from devloop.cafs.digest import Digest

FLIPS = 2000 if os.environ.get("DEVLOOP_SOAK") == "1" else 150

SMALL, LARGE = b"print('hello')\n", bytes(range(256)) * 9000
BELOW = Node(
    {
        b"large.bin": File(0o644, len(LARGE), 1, digest_of(LARGE)),
        b"link": Symlink(b"../small.py"),
    },
    {},
)
ROOT = Node(
    {
        b"dir": Dir(0o755, BELOW.digest),
        b"small.py": File(0o755, len(SMALL), 2, digest_of(SMALL)),
    },
    {b"dir": BELOW},
)
OBJECTS = {
    "small file": SMALL,
    "large file": LARGE,
    "inner tree node": BELOW.encoded,
    "root tree node": ROOT.encoded,
}


def by_get(store: DiskStore, digest: Digest, _: Path) -> None:
    store.get(digest)


def by_copy(store: DiskStore, digest: Digest, copy: Path) -> None:
    with copy.open("wb") as file:
        store.copy_to(digest, file.fileno())


def by_verify(store: DiskStore, digest: Digest, _: Path) -> None:
    (problem,) = store.verify()
    assert problem.path == store.path_of(digest)
    raise BlobCorrupt(problem.path, digest, problem.reason)


def by_loading_the_tree(store: DiskStore, digest: Digest, copy: Path) -> None:
    load_tree(ROOT.digest, store.get)
    by_copy(store, digest, copy)  # a tree's files are read by whoever stages it


@pytest.mark.promise(3)
@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("read", [by_get, by_copy, by_verify, by_loading_the_tree])
def test_promise_03_a_flipped_byte_is_found_never_served_and_healed(
    kind: str, read: Callable[[DiskStore, Digest, Path], None], tmp_path: Path
) -> None:
    rng = random.Random(kind)
    data = OBJECTS[kind]
    digest = digest_of(data)
    tries = max(1, FLIPS // 16)
    with DiskStore(tmp_path / "store") as store:
        for blob in OBJECTS.values():
            store.put(digest_of(blob), blob)
        for _ in range(tries):
            _flip(store.path_of(digest), rng)
            with pytest.raises(BlobCorrupt):
                read(store, digest, tmp_path / "copy")
            assert store.missing([digest]) == [digest]
            store.put(digest, data)
            assert store.get(digest) == data
            load_tree(ROOT.digest, store.get)
    print(f"{tries} flips in a {kind}, read {read.__name__}: all found, all healed")


def _flip(path: Path, rng: random.Random) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        offset = rng.randrange(path.stat().st_size)
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ rng.randrange(1, 256)]))
