"""Where something is mounted in a root that a stranger made: never outside it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cafs.mounting import namespace, needs_mounts, outcome

from devloop.cafs.mount import TargetRefused, bind_mount, kernel, open_in_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import ProcessPoolExecutor


@pytest.fixture(scope="module")
def apart() -> Iterator[ProcessPoolExecutor]:
    with namespace() as pool:
        yield pool


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    (path / "etc").mkdir(parents=True)
    (path / "etc/hosts").write_text("")
    (path / "run").mkdir()
    return path


def found(root: Path, path: bytes, make: str | None = None, *, follow: bool = True) -> str:
    """Where the descriptor is, from the root."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        fd = open_in_root(root_fd, path, make, follow=follow)  # type: ignore[arg-type]
        at = os.readlink(f"/proc/self/fd/{fd}")
        os.close(fd)
        return os.path.relpath(at, root)
    finally:
        os.close(root_fd)


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="needs Linux")
class TestResolving:
    def test_what_is_there_is_found(self, root: Path) -> None:
        assert found(root, b"/etc/hosts") == "etc/hosts"
        assert found(root, b"etc//./hosts") == "etc/hosts"

    @pytest.mark.parametrize("kind", ["dir", "file"])
    def test_what_is_missing_is_made_with_its_parents(self, root: Path, kind: str) -> None:
        assert found(root, b"/a/b/c", kind) == "a/b/c"
        assert stat.S_ISDIR((root / "a/b").stat().st_mode)
        assert (root / "a/b/c").is_dir() == (kind == "dir")
        assert found(root, b"/a/b/c", kind) == "a/b/c"

    def test_nothing_is_made_unless_asked(self, root: Path) -> None:
        with pytest.raises(TargetRefused, match="No such file"):
            found(root, b"/a/b")
        assert not (root / "a").exists()

    @pytest.mark.parametrize(
        ("target", "at"),
        [
            ("/run/here", "run/here"),
            ("../../../run/here", "run/here"),
            ("../run/../run/./here", "run/here"),
            ("/../../..//run/here", "run/here"),
            ("../run/deep/er/here", "run/deep/er/here"),
        ],
    )
    def test_a_link_that_dangles_is_followed_and_what_it_names_is_made_inside(
        self, root: Path, target: str, at: str
    ) -> None:
        (root / "etc/resolv.conf").symlink_to(target)
        assert found(root, b"/etc/resolv.conf", "file") == at
        assert (root / at).is_file()

    def test_a_chain_of_links_is_followed_and_a_ring_refused(self, root: Path) -> None:
        for number in range(30):
            (root / f"l{number}").symlink_to(f"/l{number + 1}")
        (root / "ring").symlink_to("ring")
        assert found(root, b"/l0/x", "dir") == "l30/x"
        with pytest.raises(TargetRefused, match="link"):
            found(root, b"/ring", "dir")

    def test_no_link_is_followed_where_none_is_allowed(self, root: Path) -> None:
        (root / "dev").symlink_to("/run")
        with pytest.raises(TargetRefused, match="'dev' is a link"):
            found(root, b"/dev/shm", "dir", follow=False)
        assert os.listdir(root / "run") == []

    @pytest.mark.parametrize("target", ["/", "..", "run/..", "/proc/self/root"])
    def test_nothing_may_be_mounted_over_the_root_itself(self, root: Path, target: str) -> None:
        (root / "workspace").symlink_to(target)
        with pytest.raises(TargetRefused):
            found(root, b"/workspace", "dir")

    @pytest.mark.parametrize("path", [b"", b"/", b".."])
    def test_the_root_itself_is_no_place(self, root: Path, path: bytes) -> None:
        with pytest.raises(TargetRefused, match="the root itself"):
            found(root, path, "dir")

    @pytest.mark.parametrize("ours", ["proc", "sys", "dev"])
    def test_a_link_does_not_lead_into_what_the_runtime_mounts(self, root: Path, ours: str) -> None:
        (root / "workspace").symlink_to(f"/{ours}/x")
        with pytest.raises(TargetRefused, match=f"a link leads to b'{ours}/x'"):
            found(root, b"/workspace", "dir")

    def test_a_file_in_the_way_is_refused(self, root: Path) -> None:
        with pytest.raises(TargetRefused, match="Not a directory"):
            found(root, b"/etc/hosts/x", "dir")

    def test_a_name_that_is_too_long_is_refused(self, root: Path) -> None:
        with pytest.raises(TargetRefused, match="name too long"):
            found(root, b"n" * 300, "dir")


# ---------------------------------------------------------------------- mounting there


def _bind(root: Path, source: Path, path: bytes, kind: str) -> tuple[str, dict[str, object]]:
    """What came of it, and what is seen inside and outside while it is mounted."""
    root_fd = os.open(root, os.O_PATH)
    source_fd = os.open(source, os.O_PATH)
    outside = root.parent / "outside"
    fd = -1

    def mount() -> None:
        nonlocal fd
        try:
            fd = open_in_root(root_fd, path, kind)  # type: ignore[arg-type]
        except TargetRefused as error:
            raise OSError(1, str(error)) from None
        bind_mount(source_fd, fd)

    said = outcome(mount)
    seen: dict[str, object] = {"outside": sorted(os.listdir(outside))}
    if said == "done":
        line = Path("/proc/self/mountinfo").read_text().splitlines()[-1].split(" ")
        seen |= {"at": os.path.relpath(line[4], root), "flags": set(line[5].split(","))}
        kernel.unmount(line[4])
    return said, seen


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "etc", "workspace"])
@pytest.mark.parametrize("up", ["../outside", "/../../outside", "/proc/self/cwd", "../../../tmp"])
class TestBinding:
    pytestmark = needs_mounts

    def test_a_link_in_the_image_cannot_lead_a_mount_out(
        self, apart: ProcessPoolExecutor, tmp_path: Path, name: str, up: str
    ) -> None:
        root, source, outside = (tmp_path / folder for folder in ("root", "source", "outside"))
        for path in (root, source, outside):
            path.mkdir()
        (source / "secret").write_text("")
        (root / name).symlink_to(up)
        said, seen = apart.submit(_bind, root, source, name.encode() + b"/x", "dir").result()
        assert seen["outside"] == []
        if said == "done":
            assert not str(seen["at"]).startswith("..")
            assert {"nosuid", "nodev"} <= seen["flags"]  # type: ignore[operator]
