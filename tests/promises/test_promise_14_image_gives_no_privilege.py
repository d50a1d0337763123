"""Promise 14: an image gives no local user privilege."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cafs.image_trees import file, index_of, special
from tests.cafs.mounting import Box, namespace, needs_mounts

from devloop.cafs.digest import digest_of
from devloop.cafs.mount import kernel, mount_root, unpack
from devloop.cafs.wholefiles import WholeFiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import ProcessPoolExecutor

    from devloop.cafs.mount import LevelName

pytestmark = needs_mounts

NOBODY = 65534
# Version 2, effective, CAP_DAC_READ_SEARCH permitted; see <linux/capability.h>.
READS_ANYTHING = bytes.fromhex("0100000204000000000000000000000000000000")
ID, CAT = (Path(shutil.which(name) or "/nonexistent") for name in ("id", "cat"))
WAYS: list[tuple[LevelName, bool]] = [
    ("erofs+overlay", False),
    ("erofs+overlay", True),
    ("tmpfs+overlay", True),
    ("fuse+overlay", False),  # with a copy in the place of the view: the same mounts lie above it
    ("fuse+overlay", True),
    ("unpacked", False),
    ("unpacked", True),
]


class Attacks:
    """What another user gets out of a root in which the image's files lie."""

    def __init__(self, root: Path, secret: Path) -> None:
        self.effective_uid = _as_nobody(root / "id", "-u")
        self.effective_gid = _as_nobody(root / "id", "-g")
        self.secret = _as_nobody(root / "cat", str(secret))
        self.character_device = _as_nobody(CAT, str(root / "full"))
        self.block_device = _as_nobody(CAT, str(root / "disk"))


def _as_nobody(program: Path, *arguments: str) -> str:
    """What it prints on either stream, at most some bytes."""
    limit = f"exec head -c 200 < <(exec {program} {' '.join(arguments)} 2>&1)"
    done = subprocess.run(
        ["bash", "-c", limit],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        check=False,
    )
    return done.stdout.decode(errors="replace").strip()


class Scene:
    """An image that attacks, unpacked, stored and ready to be mounted, where anybody may look."""

    def __init__(self, base: Path) -> None:
        base.chmod(0o755)
        self.base = base
        self.secret = base / "secret"
        self.secret.write_text("secret")
        self.secret.chmod(0o600)
        programs = {digest_of(data): data for data in (ID.read_bytes(), CAT.read_bytes())}
        capable = ((b"security.capability", READS_ANYTHING),)
        self.index = index_of(
            {
                b"id": file(ID.read_bytes(), 0o6755),
                b"cat": file(CAT.read_bytes(), 0o755, xattrs=capable),
                b"full": special("chr", (1, 5)),
                b"disk": special("blk", _some_disk()),
            }
        )
        self.box = Box(base)
        self.box.fill(self.index, programs)
        self.copy = base / "copy"
        self.copy.mkdir()
        fd = os.open(self.copy, os.O_RDONLY)
        files = WholeFiles(self.box.store)
        assert unpack(self.index, files, fd) == []
        files.close()
        os.close(fd)


def _some_disk() -> tuple[int, int]:
    """A block device that is there: the numbers of the root's, else of a loop device."""
    device = os.stat("/").st_dev
    return (os.major(device), os.minor(device)) if os.major(device) else (7, 0)


def _attack(scene: Scene, level: LevelName, writable: bool) -> Attacks:
    box = scene.box
    upper = (scene.copy if level == "unpacked" else box.upper) if writable else None
    view = None if level in ("erofs+overlay", "tmpfs+overlay") else scene.copy
    metadata = box.metadata
    if level == "tmpfs+overlay":
        metadata = box.base / "index"
        metadata.write_bytes(scene.index.encode())
    mount_root(level, metadata, box.blobs, view, upper, box.work, box.target)
    try:
        if writable:  # a file that was copied up is as harmless as one that was not
            for path in box.target.iterdir():
                os.utime(path, ns=(1, 1))
        return Attacks(box.target, scene.secret)
    finally:
        kernel.unmount(str(box.target))


@pytest.fixture(scope="module")
def apart() -> Iterator[ProcessPoolExecutor]:
    with namespace() as pool:
        yield pool


@pytest.fixture
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        yield Scene(Path(folder))


@pytest.mark.promise(14)
@pytest.mark.parametrize(("level", "writable"), WAYS)
def test_no_file_of_an_image_gives_another_user_anything(
    apart: ProcessPoolExecutor, scene: Scene, level: LevelName, writable: bool
) -> None:
    got = apart.submit(_attack, scene, level, writable).result()
    assert (got.effective_uid, got.effective_gid) == (str(NOBODY), str(NOBODY))
    for refused in (got.secret, got.character_device, got.block_device):
        assert refused.endswith("Permission denied")
    print("5 tries as another uid, 5 refused")


@pytest.mark.promise(14)
def test_the_same_files_would_give_it_all_where_no_mount_of_ours_covers_them(scene: Scene) -> None:
    """What makes the test above one that can fail."""
    got = Attacks(scene.copy, scene.secret)
    assert (got.effective_uid, got.effective_gid) == ("0", "0")
    assert got.secret == "secret"
    assert "Permission denied" not in got.character_device


@pytest.mark.promise(14)
def test_neither_blobs_nor_what_is_mounted_are_in_reach_of_others(
    apart: ProcessPoolExecutor, scene: Scene
) -> None:
    blob = next(scene.box.blobs.glob("*/*"))
    assert _as_nobody(CAT, str(blob)).endswith("Permission denied")
    apart.submit(_attack, scene, "erofs+overlay", True).result()
    assert os.listdir(scene.box.target) == []  # on the host nothing was ever there
    print("2 tries, 2 refused")
