"""Workspaces whose large files are the store's own, amid transitions, kills and runs that write."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from devloop.cafs import wholefiles
from devloop.cafs.digest import digest_of
from devloop.cafs.store import DiskStore

from .test_workspace_machine import Box, Killed, killed_after
from .trees import AFile, flat, make_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .trees import Thing

LARGE = [bytes([number]) * (2 << 20) for number in range(3)]
ROUNDS = 400 if os.environ.get("DEVLOOP_SOAK") == "1" else 40


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DiskStore]:
    """On a file system that cannot clone, wherever the tests run."""
    monkeypatch.setattr(wholefiles, "clone_file", lambda *_: False)
    with DiskStore(tmp_path / "store") as store:
        yield store


def is_shared(store: DiskStore, data: bytes) -> bool:
    return next(blob for blob in store.stored() if blob.digest == digest_of(data)).is_shared


def test_a_large_file_is_written_once_and_looks_as_the_tree_says(
    store: DiskStore, tmp_path: Path
) -> None:
    box = Box(tmp_path, store)
    project: dict[bytes, Thing] = {b"model.bin": AFile(LARGE[0], mode=0o755, mtime_ns=12345)}
    box.follow(project)
    assert box.files() == flat(project)
    assert is_shared(store, LARGE[0])


def test_equal_files_of_a_tree_and_of_two_workspaces_share_nothing_with_each_other(
    store: DiskStore, tmp_path: Path
) -> None:
    project: dict[bytes, Thing] = {name: AFile(LARGE[0]) for name in (b"one", b"two")}
    boxes = [Box(tmp_path / name, store) for name in ("a", "b")]
    for box in boxes:
        box.follow(project)
    inodes = {
        (box.workspace.files / name).stat().st_ino for box in boxes for name in ("one", "two")
    }
    assert len(inodes) == 4
    with (boxes[0].workspace.files / "one").open("r+b") as file:
        file.write(b"by a run")
    assert boxes[1].files() == flat(project)


def test_what_a_run_wrote_into_a_lent_file_is_kept_aside_and_the_blob_is_asked_for_again(
    store: DiskStore, tmp_path: Path
) -> None:
    box = Box(tmp_path, store)
    first: dict[bytes, Thing] = {b"model.bin": AFile(LARGE[0])}
    box.follow(first)
    with (box.workspace.files / "model.bin").open("r+b") as file:
        file.write(b"by a run")
    box.follow({b"model.bin": AFile(LARGE[1])})
    kept = [thing for thing in box.kept() if thing.startswith(b"by a run")]
    assert len(kept) == 1
    target = make_tree(store, {})  # the empty tree, so that nothing stores the large blob again
    box.workspace.apply(box.workspace.stage(target.digest))
    store.check(digest_of(LARGE[0]))
    assert store.missing([digest_of(LARGE[0])]) == [digest_of(LARGE[0])]
    box.follow(first)
    assert box.files() == flat(first)


def test_a_blob_that_a_run_spoiled_is_named_and_nothing_changes(
    store: DiskStore, tmp_path: Path
) -> None:
    box, other = Box(tmp_path / "a", store), Box(tmp_path / "b", store)
    box.follow({b"model.bin": AFile(LARGE[0])})
    with (box.workspace.files / "model.bin").open("r+b") as file:
        file.write(b"by a run")
    target = box.workspace.current
    assert target is not None
    staged = other.workspace.stage(target)
    assert staged.missing == [digest_of(LARGE[0])]
    assert other.files() == {}
    store.put(digest_of(LARGE[0]), LARGE[0])
    other.workspace.apply(other.workspace.stage(target))
    assert other.files() == flat({b"model.bin": AFile(LARGE[0])})


def test_kills_between_lending_and_moving_in_leave_whole_blobs_and_exact_trees(
    store: DiskStore, tmp_path: Path
) -> None:
    """Runs write to their files in between; what they wrote is kept, and nobody else sees it."""
    rng = random.Random(3)
    boxes = [Box(tmp_path / name, store) for name in ("a", "b")]
    kills = lent = 0
    for number in range(ROUNDS):
        box = rng.choice(boxes)
        project = _project(rng, number)
        try:
            with killed_after(rng.choice([10**6, rng.randrange(12)])):
                box.reopened()
                box.follow(project)
        except Killed:
            kills += 1
            box.reopened()
            applied = box.follow(project)
            assert applied.saved_aside == [] or box.written
        assert box.files() == flat(project)
        lent += any(blob.is_shared for blob in store.stored())
        for box in boxes:
            assert box.written <= box.kept()
            _write_in_place(box, rng)
    assert kills
    assert lent
    with DiskStore(store.root) as again:
        assert list(again.verify()) == []
    print(f"{ROUNDS} transitions, {kills} kills: 0 wrong files, 0 writes of runs lost")


def _project(rng: random.Random, number: int) -> dict[bytes, Thing]:
    names = rng.sample([b"a", b"b", b"c"], k=rng.randrange(4))
    return {name: AFile(rng.choice(LARGE), mtime_ns=number) for name in names}


def _write_in_place(box: Box, rng: random.Random) -> None:
    paths = [path for path in box.workspace.files.iterdir() if rng.random() < 0.3]
    for path in paths:
        box.written.discard(path.read_bytes())
        with path.open("r+b") as file:
            box.writes += 1
            file.write(b"by run %d" % box.writes)
        box.written.add(path.read_bytes())
