"""An image's root, mounted by the kernel: what it shows, what writing does, what it leaves."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from tests.cafs.image_trees import (
    ON_EXT4,
    contents_of,
    directory,
    file,
    index_of,
    special,
    symlink,
    trees,
)
from tests.cafs.mounting import Box, differences, namespace, needs_mounts, outcome, xattrs_of

from devloop.cafs.digest import digest_of
from devloop.cafs.mount import MountFailed, kernel, mount_root, probe
from devloop.cafs.mount.metadata import _mount_by_loop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import ProcessPoolExecutor

    from devloop.cafs.digest import Digest
    from devloop.cafs.index import Index
    from devloop.cafs.mount.root import LevelName

pytestmark = needs_mounts

FILES = {
    b"etc/passwd": b"root:x:0",
    b"usr/bin/tool": b"#!/bin/sh\n" * 900,
    b"usr/lib/x.so": b"\7ELF",
}
IMAGE = index_of(
    {
        **{path: file(data, 0o755) for path, data in FILES.items()},
        b"usr/bin/again": b"usr/bin/tool",
        b"bin": symlink(b"usr/bin"),
        b"empty": file(b""),
        b"tmp": directory(0o1777, uid=5, gid=6),
        b"fifo": special("fifo"),
        b"null": special("chr", (1, 3)),
    }
)
CONTENTS = {digest_of(data): data for data in FILES.values()}
LEVELS: tuple[LevelName, ...] = ("erofs+overlay", "tmpfs+overlay")


@pytest.fixture(scope="module")
def apart() -> Iterator[ProcessPoolExecutor]:
    with namespace() as pool:
        yield pool


def box_in(base: Path, level: LevelName = "erofs+overlay") -> Box:
    box = Box(base, level)
    box.fill(IMAGE, CONTENTS)
    return box


def mounts_at(path: Path) -> list[str]:
    """The lines of mountinfo of what is mounted there."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split(" ")[4] == str(path)]


# ---------------------------------------------------------------------- what it shows


def _shown(
    base: Path, level: LevelName, index: Index, contents: dict[Digest, bytes], writable: bool
) -> list[str]:
    box = Box(base, level)
    box.fill(index, contents)
    with box.mounted(writable=writable) as root:
        return differences(root, index, contents)


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=15)
@given(index=trees(ON_EXT4))
def test_any_image_is_shown_as_its_index_says(
    apart: ProcessPoolExecutor, index: Index, level: LevelName, writable: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen = apart.submit(_shown, Path(folder), level, index, contents_of(index), writable)
        assert seen.result() == []


def _devices(base: Path, level: LevelName) -> tuple[list[str], dict[str, int]]:
    box = box_in(base, level)
    with box.mounted(writable=True) as root:
        inside = {path.name: path.lstat().st_dev for path in (root, *root.iterdir())}
        return differences(root, IMAGE, CONTENTS), inside


@pytest.mark.parametrize("level", LEVELS)
def test_the_whole_writable_root_is_one_device(
    apart: ProcessPoolExecutor, tmp_path: Path, level: LevelName
) -> None:
    wrong, devices = apart.submit(_devices, tmp_path, level).result()
    assert wrong == []
    assert len(set(devices.values())) == 1


def _names_and_xattrs(base: Path, index: Index) -> tuple[list[str], object]:
    box = Box(base)
    box.fill(index, {})
    with box.mounted(writable=True) as root:
        return sorted(os.listdir(root)), xattrs_of(bytes(root / "d"))


def test_what_would_steer_overlayfs_in_an_image_is_only_data(
    apart: ProcessPoolExecutor, tmp_path: Path
) -> None:
    steering = ((b"trusted.overlay.opaque", b"y"), (b"trusted.overlay.redirect", b"/../../etc"))
    tree = {b"d/below": file(b""), b"gone": special("chr", (0, 0)), b"e/gone": b"gone"}
    index = index_of({b"d": directory(xattrs=steering), **tree})
    names, shown = apart.submit(_names_and_xattrs, tmp_path, index).result()
    assert names == ["d", "e"]
    assert shown == steering


def _missing_blob(base: Path) -> tuple[str, int, bytes]:
    box = box_in(base)
    lost = CONTENTS[digest_of(FILES[b"etc/passwd"])]
    blob = next(path for path in box.blobs.glob("*/*") if path.read_bytes() == lost)
    blob.unlink()
    with box.mounted() as root:
        path = root / "etc/passwd"
        return outcome(path.read_bytes), path.stat().st_size, (root / "usr/lib/x.so").read_bytes()


def test_a_missing_blob_is_an_error_of_its_file_alone(
    apart: ProcessPoolExecutor, tmp_path: Path
) -> None:
    said, size, other = apart.submit(_missing_blob, tmp_path).result()
    assert (said, size, other) == ("ENOENT", 8, b"\7ELF")


def _blob_from_the_third_layer(base: Path, level: LevelName) -> bytes:
    box = box_in(base, level)
    third = base / "third"
    box.blobs.rename(third)
    box.blobs.mkdir()
    mount_root(level, box.metadata, box.blobs, third, None, None, box.target)
    try:
        return (box.target / "etc/passwd").read_bytes()
    finally:
        kernel.unmount(str(box.target))


@pytest.mark.parametrize("level", LEVELS)
def test_what_the_blob_folder_lacks_comes_from_the_third_layer(
    apart: ProcessPoolExecutor, tmp_path: Path, level: LevelName
) -> None:
    assert apart.submit(_blob_from_the_third_layer, tmp_path, level).result() == b"root:x:0"


# ---------------------------------------------------------------------- writing


def _write(base: Path) -> dict[str, object]:
    box = box_in(base)
    before = {path: path.read_bytes() for path in box.blobs.glob("*/*")}
    seen: dict[str, object] = {}
    with box.mounted(writable=True, volatile=True) as root:
        with (root / "usr/bin/again").open("ab") as added:
            added.write(b"more")
        seen["the other name"] = (root / "bin/tool").read_bytes()[-4:]
        (root / "usr").rename(root / "usr2")
        seen["renamed directory"] = (root / "usr2/lib/x.so").read_bytes()
        (root / "etc/passwd").chmod(0o600)
        os.chown(root / "etc/passwd", 7, 8)
        seen["bytes in the upper after chmod"] = (box.upper / "etc/passwd").read_bytes()
        seen["bytes after chmod"] = (root / "etc/passwd").read_bytes()
        (root / "empty").unlink()
        seen["left"] = sorted(os.listdir(root))
    seen["blobs are as before"] = before == {path: path.read_bytes() for path in before}
    with box.mounted() as root:
        seen["without the upper"] = differences(root, IMAGE, CONTENTS)
    return seen


def test_writing_changes_the_upper_and_nothing_else(
    apart: ProcessPoolExecutor, tmp_path: Path
) -> None:
    assert apart.submit(_write, tmp_path).result() == {
        "the other name": b"more",
        "renamed directory": b"\7ELF",
        "bytes in the upper after chmod": bytes(8),
        "bytes after chmod": b"root:x:0",
        "left": ["bin", "etc", "fifo", "null", "tmp", "usr2"],
        "blobs are as before": True,
        "without the upper": [],
    }


def _write_to_read_only(base: Path) -> list[str]:
    with box_in(base).mounted() as root:
        return [
            outcome((root / "new").mkdir),
            outcome(lambda: (root / "etc/passwd").write_bytes(b"")),
            outcome(lambda: (root / "tmp").chmod(0o755)),
        ]


def test_without_an_upper_the_root_is_read_only(apart: ProcessPoolExecutor, tmp_path: Path) -> None:
    assert apart.submit(_write_to_read_only, tmp_path).result() == ["EROFS"] * 3


def _keep(base: Path) -> list[object]:
    box = box_in(base)
    with box.mounted(writable=True) as root:
        (root / "new").write_bytes(b"kept")
        try:
            with Box(base).mounted(writable=True):
                twice: object = "mounted twice"
        except MountFailed as error:
            twice = error.errno
    with box.mounted(writable=True) as root:
        again = (root / "new").read_bytes()
    box.fill(index_of({b"another": file(b"image")}), {})
    try:
        with box.mounted(writable=True):
            another: object = "mounted over another image"
    except MountFailed as error:
        another = error.errno
    return [again, twice, another]


def test_an_upper_belongs_to_one_image_and_one_root_at_a_time(
    apart: ProcessPoolExecutor, tmp_path: Path
) -> None:
    kept = apart.submit(_keep, tmp_path).result()
    assert kept == [b"kept", errno.EBUSY, errno.ESTALE]


# ---------------------------------------------------------------------- where, and what is left


def _mounted_at(base: Path, writable: bool) -> tuple[bytes, list[str], list[str]]:
    box = box_in(base)
    with box.mounted(writable=writable) as root:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return (root / "etc/passwd").read_bytes(), lines, os.listdir(root)


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize(
    "name",
    ["a:b,c d", "back\\slash", "two::colons", "new\nline", "n" * 200 + "/" + "m" * 200, "é…"],
)
def test_any_path_can_be_mounted_from_and_at(
    apart: ProcessPoolExecutor, tmp_path: Path, name: str, writable: bool
) -> None:
    base = tmp_path / name
    base.mkdir(parents=True)
    assert apart.submit(_mounted_at, base, writable).result()[0] == b"root:x:0"


@pytest.mark.parametrize("writable", [False, True])
def test_one_mount_is_added_and_it_is_nosuid_and_nodev(
    apart: ProcessPoolExecutor, tmp_path: Path, writable: bool
) -> None:
    before = apart.submit(mounts_at, tmp_path).result()
    _, lines, _ = apart.submit(_mounted_at, tmp_path, writable).result()
    (added,) = [line for line in lines if str(tmp_path) in line]
    flags = added.split(" ")[5].split(",")
    assert {"nosuid", "nodev", "rw" if writable else "ro"} <= set(flags)
    assert apart.submit(mounts_at, tmp_path).result() == before == []


def _keep_mounted(base: Path) -> None:
    box = box_in(base)
    mount_root("erofs+overlay", box.metadata, box.blobs, None, box.upper, box.work, box.target)


def _is_mounted(base: Path) -> bool:
    return bool(mounts_at(base / "root"))


def test_nothing_of_it_is_seen_on_the_host(tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with namespace() as pool:
        pool.submit(_keep_mounted, tmp_path).result()
        assert pool.submit(_is_mounted, tmp_path).result()
        assert Path("/proc/self/mountinfo").read_text() == before
        assert os.listdir(tmp_path / "root") == []
    assert Path("/proc/self/mountinfo").read_text() == before
    shutil.rmtree(tmp_path)  # which a mount that is left would not allow


def _fail(base: Path, missing: str) -> tuple[str, list[str], int]:
    box = box_in(base)
    path = getattr(box, missing)
    path.unlink() if path.is_file() else shutil.rmtree(path)
    if missing == "metadata":
        path.write_bytes(bytes(8192))
    descriptors = len(os.listdir("/proc/self/fd"))
    try:
        with box.mounted(writable=True):
            return "mounted", [], 0
    except MountFailed as error:
        left = len(os.listdir("/proc/self/fd")) - descriptors
        return str(error), mounts_at(box.target), left


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("metadata", "erofs: Invalid argument"),
        ("blobs", "No such file or directory"),
        ("work", "No such file or directory"),
        ("target", "No such file or directory"),
    ],
)
def test_a_failure_is_said_in_the_kernels_words_and_leaves_nothing(
    apart: ProcessPoolExecutor, tmp_path: Path, missing: str, words: str
) -> None:
    said, mounts, descriptors = apart.submit(_fail, tmp_path, missing).result()
    assert words in said
    assert str(tmp_path / "root") in said
    assert (mounts, descriptors) == ([], 0)


def _by_loop(base: Path) -> tuple[list[str], str]:
    box = box_in(base)
    with box.metadata.open("rb") as opened:
        mount_fd = _mount_by_loop(opened.fileno())
    target_fd = os.open(box.target, os.O_PATH)
    kernel.move_mount(mount_fd, target_fd)
    device = mounts_at(box.target)[0].split(" - ")[1].split(" ")[1]
    found = differences(box.target, IMAGE, None, ignore=["xattrs"])
    os.close(mount_fd)
    os.close(target_fd)
    kernel.unmount(str(box.target))
    return found, device


def test_without_file_backed_mounts_a_loop_device_does_it_and_goes(
    apart: ProcessPoolExecutor, tmp_path: Path
) -> None:
    found, device = apart.submit(_by_loop, tmp_path).result()
    assert found == []
    assert device.startswith("/dev/loop")
    backing = Path(f"/sys/block/{Path(device).name}/loop/backing_file")
    while backing.exists():  # the kernel lets go of it when the last user has
        os.sched_yield()


# ---------------------------------------------------------------------- the other levels


def _by_copy(base: Path, level: str, writable: bool) -> tuple[bytes, str, set[str]]:
    box = Box(base)
    copy = base / "copy"
    copy.mkdir()
    (copy / "file").write_bytes(b"copied")
    upper = None
    if writable:
        upper = copy if level == "unpacked" else box.upper
    mount_root(level, None, None, copy, upper, box.work, box.target)  # type: ignore[arg-type]
    try:
        flags = set(mounts_at(box.target)[0].split(" ")[5].split(","))
        said = outcome(lambda: (box.target / "file").write_bytes(b"changed"))
        return (box.target / "file").read_bytes(), said, flags
    finally:
        kernel.unmount(str(box.target))


@pytest.mark.parametrize("level", ["fuse+overlay", "unpacked"])
def test_a_whole_tree_can_be_the_root_too(
    apart: ProcessPoolExecutor, tmp_path: Path, level: str
) -> None:
    for writable, expected in ((False, (b"copied", "EROFS")), (True, (b"changed", "done"))):
        base = tmp_path / str(writable)
        base.mkdir()
        data, said, flags = apart.submit(_by_copy, base, level, writable).result()
        assert (data, said) == expected
        assert {"nosuid", "nodev"} <= flags


IN_A_USER_NAMESPACE = """
import ctypes, os, sys
from pathlib import Path
from devloop.cafs.mount import enter_private_namespace, mount_root
base = Path(sys.argv[1])
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
PR_SET_DUMPABLE = 4  # whose uid has changed may not write to /proc/self
assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0
enter_private_namespace()
mount_root("fuse+overlay", None, None, base/"tree", base/"upper", base/"work", base/"root")
(base/"root/file").write_bytes(b"changed")
(base/"root/made").mkdir()
os.rename(base/"root/made", base/"root/moved")
print((base/"tree/file").read_bytes(), sorted(os.listdir(base/"root")), os.getuid())
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a user namespace")
def test_a_writable_overlay_of_a_tree_needs_no_root() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        for name in ("tree", "upper", "work", "root"):
            path = Path(folder, name)
            path.mkdir()
            os.chown(path, 65534, 65534)
        (Path(folder) / "tree/file").write_bytes(b"original")
        os.chown(Path(folder) / "tree/file", 65534, 65534)
        done = subprocess.run(
            [sys.executable, "-c", IN_A_USER_NAMESPACE, folder],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stderr == ""
    assert done.stdout == "b'original' ['file', 'moved'] 0\n"


# ---------------------------------------------------------------------- probing


def test_the_best_level_is_found_here_and_nothing_is_left(tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    assert probe(tmp_path) == ("erofs+overlay", "", "")
    assert os.listdir(tmp_path) == []
    assert Path("/proc/self/mountinfo").read_text() == before


PROBE = "from devloop.cafs.mount import probe; print(*probe(), sep='\\n')"


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a user namespace")
def test_without_root_the_kernels_refusal_is_told_with_what_would_help(tmp_path: Path) -> None:
    said = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", PROBE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert said[0] in ("tmpfs+overlay", "fuse+overlay", "unpacked")
    assert said[1].startswith("erofs+overlay: ")
    assert "Operation not permitted" in said[1]
    assert "run the agent as root" in said[2]
