"""Promise 13, trees and names: a hostile tree cannot write outside its root."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from devloop.cafs import syscalls
from devloop.cafs.beneath import PathEscapes, Root
from devloop.cafs.digest import digest_of
from devloop.cafs.tree import (
    MAGIC,
    Dir,
    Entry,
    Node,
    Symlink,
    TreeInvalid,
    decode_node,
    load_tree,
    walk_tree,
)

if TYPE_CHECKING:
    from pathlib import Path

SOAK = os.environ.get("DEVLOOP_SOAK") == "1"
TREES = 200_000 if SOAK else 6_000
LANDINGS = 20_000 if SOAK else 1_500

NAMES = [b"a", b"b", b"link", b"..", b".", b"", b"/", b"/etc", b"a/b", b"../x", b"\0", b"a\0"]
NAMES += [b"x" * 255, b"\xff", b"...", b"C:", b"-rf"]
TARGETS = [b"..", b"/", b"/etc", b"../../..", b"a", b".", b"\0", b"", b"t" * 5000]
EMPTY = digest_of(MAGIC)


@pytest.fixture(params=["openat2", "walk"])
def box(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that holds the root; beside it a canary, and `a/b` for a stray path to hit."""
    if request.param == "walk":
        monkeypatch.setattr(syscalls, "_LINUX", False)
    elif sys.platform != "linux":
        pytest.skip("needs Linux: openat2")
    box = tmp_path / "box"
    (box / "root").mkdir(parents=True)
    (box / "a" / "b").mkdir(parents=True)
    (box / "canary").write_text("untouched")
    return box


def _assert_untouched(box: Path) -> None:
    assert sorted(os.listdir(box)) == ["a", "canary", "root"]
    assert [path.name for path in (box / "a").rglob("*")] == ["b"]
    assert (box / "canary").read_text() == "untouched"


@pytest.mark.promise(13)
def test_promise_13_no_hostile_node_writes_outside_its_root(box: Path) -> None:
    """Nodes that an encoder without checks would make: whatever decodes is then written."""
    rng = random.Random(13)
    refused = written = 0
    for number in range(TREES // 2):
        try:
            entries = decode_node(_hostile_node(rng))
        except TreeInvalid:
            refused += 1
            continue
        if number % 5 == 0:
            shutil.rmtree(box / "root")
            (box / "root").mkdir()
        with Root(box / "root") as root:
            written += _write_all(root, entries, rng)
    assert refused
    assert written
    _assert_untouched(box)
    print(f"{TREES // 2} hostile nodes: {refused} refused, {written} entries written, 0 outside")


def _hostile_node(rng: random.Random) -> bytes:
    names = sorted(rng.choices(NAMES, k=rng.randint(1, 4)))
    if rng.random() < 0.6:
        names = sorted({name for name in names if name and b"/" not in name and b"\0" not in name})
    node = MAGIC + b"".join(_hostile_entry(name, rng) for name in names)
    if rng.random() < 0.2:
        at = rng.randrange(len(node))
        node = node[:at] + rng.randbytes(rng.randint(0, 3)) + node[at + rng.randint(0, 3) :]
    return node


def _hostile_entry(name: bytes, rng: random.Random) -> bytes:
    mode = rng.choice([0o644, 0o755, 0o777, 0o4755, 0o7777]).to_bytes(2, "big")
    kind = rng.choice([1, 2, 3])
    if kind == 3:
        target = rng.choice(TARGETS)
        head = b"\x03\0\0" + bytes([len(name)]) + name
        return head + len(target).to_bytes(2, "big") + target
    body = bytes(16) + EMPTY if kind == 1 else EMPTY
    return bytes([kind]) + mode + bytes([len(name)]) + name + body


def _write_all(root: Root, entries: dict[bytes, Entry], rng: random.Random) -> int:
    """Writes each entry, and something below it: what an earlier tree left may be a link."""
    written = 0
    for name, entry in entries.items():
        below = b"/".join([name, *rng.choices(NAMES, k=rng.randint(1, 3))])
        for path in (name, below, name + b"/a/b/x"):
            with contextlib.suppress(OSError, PathEscapes):
                _write(root, path, entry)
                written += 1
    return written


def _write(root: Root, path: bytes, entry: Entry) -> None:
    if isinstance(entry, Symlink):
        root.symlink(entry.target, path)
    elif isinstance(entry, Dir):
        root.mkdir(path)
    else:
        fd = root.create(path, entry.mode)
        os.write(fd, b"hostile")
        os.close(fd)
        root.chmod(path, 0o600)
        root.utime_ns(path, 0)


@pytest.mark.promise(13)
def test_promise_13_no_swap_of_a_directory_for_a_link_leads_out(box: Path) -> None:
    """While a run of the user's swaps `d` for a link to the outside, as fast as it can."""
    stop = threading.Event()
    swapper = threading.Thread(target=_swap, args=(box, stop))
    swapper.start()
    landed = refused = 0
    try:
        with Root(box / "root") as root:
            while landed < LANDINGS or refused < LANDINGS // 20:
                if _storm_write(root, landed + refused):
                    landed += 1
                else:
                    refused += 1
    finally:
        stop.set()
        swapper.join()
    _assert_untouched(box)
    print(f"{landed + refused} writes during swaps: {landed} inside, {refused} refused, 0 outside")


def _storm_write(root: Root, number: int) -> bool:
    try:
        root.forget()
        fd = root.create(b"d/b/%d" % number)
        os.close(fd)
        root.symlink(b"/", b"d/link")
        root.replace(b"d/b/%d" % number, b"d/link")
        root.chmod(b"d/link", 0o600)
        root.unlink(b"d/link")
    except OSError:
        return False
    return True


def _swap(box: Path, stop: threading.Event) -> None:
    root = box / "root"
    while not stop.is_set():
        shutil.rmtree(root / "aside", ignore_errors=True)
        with contextlib.suppress(OSError):
            (root / "d").rename(root / "aside")
        with contextlib.suppress(OSError):
            (root / "d").symlink_to(box / "a")
        with contextlib.suppress(OSError):
            (root / "d").unlink()


@pytest.mark.promise(13)
def test_promise_13_a_tree_that_repeats_itself_without_end_is_refused_at_once() -> None:
    """201 nodes that name 2^201 files."""
    stored: dict[bytes, bytes] = {}
    node = Node({b"leaf": Symlink(b"x")}, {})
    for _ in range(200):
        stored[node.digest] = node.encoded
        below = Dir(0o755, node.digest)
        node = Node({b"a": below, b"b": below}, {b"a": node, b"b": node})
    stored[node.digest] = node.encoded
    reads = 0

    def get(digest: bytes) -> bytes:
        nonlocal reads
        reads += 1
        return stored[digest]

    with pytest.raises(TreeInvalid, match="more than"):
        load_tree(node.digest, get)
    assert reads == len(stored)
    assert sum(1 for _ in walk_tree(Node({}, {}))) == 0
    print(f"1 tree of 2^201 files refused after {reads} nodes")
