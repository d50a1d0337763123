"""An image that a tier serves, until all of it has come: from then on it needs no tier."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.images.layout import Image, layer, write_layout
from tests.images.programs import small_root

from devloop.cafs.errors import DevloopError
from devloop.cafs.fuse.check import check_fuse

from .box import wait_until

if TYPE_CHECKING:
    from .box import Box

MARKER = 64


@pytest.fixture(autouse=True)
def _possible() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if "overlay" not in Path("/proc/filesystems").read_text():
        pytest.skip("needs overlayfs")
    if shutil.which("crun", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("needs crun")
    try:
        check_fuse()
    except DevloopError:
        pytest.skip("needs FUSE")


def lazy_project(box: Box, own_box: Box, folder: Path) -> Path:
    """Of a box whose image comes from a folder alone, in which another box has put it."""
    files = {f"opt/data/{n}": b"%d\n" % n * MARKER for n in range(40)}
    entries = {"opt/data/large": os.urandom(5 << 20), **files, **small_root("sh", "cat")}
    write_layout(folder / "layout", [Image([layer(entries)])])
    name = f"oci:{folder}/layout:latest"
    for words in (("pull", name), ("push", name, "--to", f"file://{folder}/tier")):
        done = box.run(box.project(), "image", *words)
        assert done.code == 0, done
    shutil.rmtree(folder / "layout")
    project = own_box.project()
    (project / "devloop.toml").write_text(f'image = "{name}"\nstore = ["file://{folder}/tier"]\n')
    return project


def is_complete(box: Box) -> bool:
    listed = json.loads(box.run(box.base, "image", "ls", "--json").text)
    (image,) = listed["images"]
    return bool(image["is_complete"])


def test_an_image_of_which_every_file_was_read_needs_no_file_server_any_more(
    box: Box, own_box: Box, tmp_path: Path
) -> None:
    project = lazy_project(box, own_box, tmp_path)
    count = "cat /opt/data/[0-9]* | { n=0; while read x; do n=$((n+1)); done; echo $n; }"
    assert own_box.exec(project, "sh", "-c", count).text == f"{40 * MARKER}\n"
    assert not is_complete(own_box)
    # In the same container, which stays as it is.
    rest = "/opt/data/large /usr/bin/* /usr/lib*/* /usr/lib/*/* /etc/*"
    own_box.exec(project, "sh", "-c", f"echo 1 >/opt/mine; cat {rest} >/dev/null 2>&1")
    wait_until(lambda: is_complete(own_box))
    assert own_box.exec(project, "cat", "/opt/mine").text == "1\n"

    own_box.run(project, "down")
    shutil.rmtree(tmp_path / "tier")
    assert own_box.exec(project, "sh", "-c", count).text == f"{40 * MARKER}\n"
    assert not _fuse_mounts(own_box)


def _fuse_mounts(box: Box) -> list[str]:
    """Of the agent's processes, each as it sees mounts."""
    family = box.agent().children(recursive=True)
    return [line for one in family for line in _mounts(one.pid) if " fuse." in line]


def _mounts(pid: int) -> list[str]:
    with contextlib.suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return []
