"""Promise 13, transitions: neither a hostile tree nor a run that plants links leads outside."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.errors import DevloopError
from devloop.cafs.store import DiskStore
from devloop.cafs.tree import MAGIC
from devloop.remote_agent.receive import Receiver
from devloop.remote_agent.workspace import Workspace

from ..remote_agent.trees import ADir, AFile, ALink, make_tree  # noqa: TID252

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..remote_agent.trees import Thing  # noqa: TID252

SOAK = os.environ.get("DEVLOOP_SOAK") == "1"
TREES = 5000 if SOAK else 400
UPLOADS = 5000 if SOAK else 300
SWAPPED = 5000 if SOAK else 300
NAMES = [b"a", b"b", b"link", b"..", b".", b"", b"/etc", b"a/b", b"../x", b"a\0", b"x" * 255]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """Beside it a folder that must stay as it is."""
    outside = tmp_path / "outside"
    (outside / "a").mkdir(parents=True)
    (outside / "canary").write_text("untouched")
    with DiskStore(tmp_path / "store") as store:
        yield Workspace(tmp_path / "w", store, "test")
    assert sorted(os.listdir(outside)) == ["a", "canary"]
    assert os.listdir(outside / "a") == []
    assert (outside / "canary").read_text() == "untouched"
    assert sorted(os.listdir(tmp_path)) == ["outside", "store", "w"]


@pytest.mark.promise(13)
def test_promise_13_no_hostile_tree_changes_anything_outside(
    workspace: Workspace, tmp_path: Path
) -> None:
    rng = random.Random(13)
    refused = applied = 0
    for _ in range(TREES):
        root = _hostile_tree(workspace, rng, str(tmp_path / "outside").encode(), 0)
        try:
            staged = workspace.stage(Digest(root))
            assert staged.missing == []
            workspace.apply(staged)
            applied += 1
        except DevloopError:
            refused += 1
    assert refused
    assert applied
    print(f"{TREES} hostile trees: {refused} refused, {applied} applied, 0 outside")


@pytest.mark.promise(13)
def test_promise_13_no_hostile_upload_writes_outside(workspace: Workspace) -> None:
    rng = random.Random(14)
    refused = written = 0
    for _ in range(UPLOADS):
        ahead = workspace.ahead.begin()
        assert ahead is not None
        receiver = Receiver(workspace._store)
        receiver.ahead = ahead
        for _ in range(rng.randint(1, 4)):
            folder = b"/".join(rng.choices(NAMES, k=rng.randint(0, 3)))
            name = rng.choice(NAMES)
            record = b"\1\x01\xa4" + bytes([len(name)]) + name
            record += (1).to_bytes(8, "big") + bytes(8) + digest_of(b"1")
            try:
                receiver.files(folder, MAGIC + record, b"1", zstd=False)
                written += 1
            except DevloopError:
                refused += 1
        workspace.ahead.end(ahead)
        assert os.listdir(workspace.files) == []
    print(f"promise 13: {UPLOADS} hostile uploads, {refused} parts refused, {written} staged")
    assert refused
    assert written


def _hostile_tree(workspace: Workspace, rng: random.Random, outside: bytes, depth: int) -> bytes:
    """Links to the outside, and in the next tree directories where those links were."""
    hostile = rng.random() < 0.2
    names = sorted(set(rng.choices(NAMES if hostile else [b"a", b"b", b"link"], k=3)))
    node = MAGIC + b"".join(_entry(workspace, name, rng, outside, depth) for name in names)
    workspace._store.put(digest_of(node), node)
    return digest_of(node)


def _entry(
    workspace: Workspace, name: bytes, rng: random.Random, outside: bytes, depth: int
) -> bytes:
    kind = rng.choice([1, 2, 3]) if depth < 3 else rng.choice([1, 3])
    head = (
        bytes([kind]) + (0 if kind == 3 else 0o755).to_bytes(2, "big") + bytes([len(name)]) + name
    )
    if kind == 3:
        target = rng.choice([outside, b"../../outside", b"/", b".", b"a"])
        return head + len(target).to_bytes(2, "big") + target
    if kind == 2:
        return head + _hostile_tree(workspace, rng, outside, depth + 1)
    data = b"hostile"
    workspace._store.put(digest_of(data), data)
    return head + len(data).to_bytes(8, "big") + bytes(8) + digest_of(data)


@pytest.mark.promise(13)
def test_promise_13_no_swap_of_a_directory_for_a_link_leads_a_transition_out(
    workspace: Workspace, tmp_path: Path
) -> None:
    """While a run of the user's swaps `a` and `a/b` for links to the outside, without a pause."""
    trees = [make_tree(workspace._store, _version(number)).digest for number in range(2)]
    stop = threading.Event()
    outside = tmp_path / "outside"
    swapper = threading.Thread(target=_swap, args=(workspace.files, outside, stop))
    swapper.start()
    landed = failed = 0
    try:
        for number in range(SWAPPED):
            try:
                workspace.apply(workspace.stage(trees[number % 2], repair=number % 3 == 0))
                landed += 1
            except DevloopError:
                failed += 1
    finally:
        stop.set()
        swapper.join()
    assert landed
    print(f"{SWAPPED} transitions amid swaps: {landed} done, {failed} failed clearly, 0 outside")


def _version(number: int) -> dict[bytes, Thing]:
    word = AFile(b"%d" % number, mtime_ns=number)
    below: dict[bytes, Thing] = {b"f": word, b"m.py": word, b"l": ALink(b"%d" % number)}
    return {b"a": ADir({**below, b"b": ADir({**below, b"x%d" % number: word})}), b"c": word}


def _swap(files: Path, outside: Path, stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        for place in (files / "a", files / "a" / "b"):
            with contextlib.suppress(OSError):
                place.rename(files / f"moved{number % 3}")
            with contextlib.suppress(OSError):
                place.symlink_to(outside)
            with contextlib.suppress(OSError):
                place.unlink()
