"""Promise 4, the workspace's part: a full disk fails one transition, and the old tree stays."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from devloop.cafs.errors import StoreFull
from devloop.cafs.store import DiskStore
from devloop.remote_agent.workspace import Workspace

from ..remote_agent.trees import ADir, AFile, flat, look, make_tree  # noqa: TID252

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..remote_agent.trees import Thing  # noqa: TID252

DISK_BYTES = 4 << 20
PAGE = 4096


@pytest.fixture(params=["bytes", "inodes"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if sys.platform != "linux":
        pytest.skip("needs Linux: a tmpfs of a given size")
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    mount = tmp_path / "disk"
    mount.mkdir()
    limit = f"size={DISK_BYTES}" if request.param == "bytes" else "size=64m,nr_inodes=120"
    command = ["mount", "-t", "tmpfs", "-o", limit, "tmpfs", str(mount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs tmpfs mounts: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def version(number: int, file_bytes: int) -> dict[bytes, Thing]:
    data = b"%d" % number * file_bytes
    return {b"d%d" % n: ADir({b"f": AFile(data, mtime_ns=number)}) for n in range(20)}


@pytest.mark.promise(4)
@pytest.mark.root
def test_promise_04_a_full_disk_fails_one_transition_and_the_old_tree_stays(
    small_disk: Path, tmp_path: Path
) -> None:
    """Tried with room for everything down to nothing, so that each write meets the end once."""
    refusals = done = 0
    first, second = version(1, 10_000), version(2, 10_001)
    with DiskStore(tmp_path / "store") as store:
        trees = [make_tree(store, project).digest for project in (first, second)]
        workspace = Workspace(small_disk / "w", store, "test")
        workspace.apply(workspace.stage(trees[0]))
        for room in range(80):
            fill(small_disk, room)
            try:
                workspace.apply(workspace.stage(trees[1]))
                done += 1
            except StoreFull as error:
                refusals += 1
                check_words(error, 20 * 10_001, small_disk)
                assert look(workspace.files) == flat(first)
                assert workspace.current == trees[0]
                assert list((small_disk / "w" / "staging").iterdir()) == []
            empty(small_disk)
            workspace.apply(workspace.stage(trees[1]))
            assert look(workspace.files) == flat(second)
            workspace.apply(workspace.stage(trees[0]))
            assert look(workspace.files) == flat(first)
    assert refusals
    assert done
    print(
        f"{refusals} refusals and {done} successes on a filling disk: old tree intact, retry worked"
    )


def check_words(error: StoreFull, need_bytes: int, disk: Path) -> None:
    assert "\n" not in str(error)
    assert str(disk) in str(error)
    assert f"{error.free_bytes:,} free" in str(error)
    assert (
        error.need_bytes in (need_bytes, PAGE) or error.need_bytes < 1000
    )  # files, folder, record
    assert error.hint


def fill(disk: Path, room: int) -> None:
    """Leaves `room` pages, or inodes."""
    status = os.statvfs(disk)
    if status.f_files < 1000:
        for number in range(max(0, status.f_ffree - room)):
            (disk / f"filler{number}").touch()
        return
    with (disk / "filler").open("wb") as file:
        file.write(bytes(max(0, (status.f_bavail - room) * PAGE)))


def empty(disk: Path) -> None:
    for path in disk.glob("filler*"):
        path.unlink()
