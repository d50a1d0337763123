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
from tests.images.possible import skip_unless_lazy_containers
from tests.images.programs import small_root

from .box import Up, wait_until

if TYPE_CHECKING:
    from .box import Box

MARKER = 64


@pytest.fixture(autouse=True)
def _possible() -> None:
    skip_unless_lazy_containers()


def lazy_project(box: Box, own_box: Box, folder: Path) -> Path:
    """Of a box whose image comes from a folder alone, in which another box has put it."""
    files = {f"opt/data/{n}": b"%d\n" % n * MARKER for n in range(40)}
    entries = {"opt/data/large": os.urandom(5 << 20), **files, **small_root("sh", "cat", "tail")}
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


def test_a_run_beyond_its_memory_is_killed_and_told_why_and_all_else_lives(
    box: Box, own_box: Box, tmp_path: Path
) -> None:
    project = lazy_project(box, own_box, tmp_path)
    config = project / "devloop.toml"
    config.write_text(config.read_text() + '[container]\nmemory = "96MB"\n')
    own_box.exec(project, "sh", "-c", "echo 1 >/opt/mine")
    done = own_box.exec(project, "tail", "/dev/zero")
    assert done.code == 128 + 9, done
    assert "devloop: the kernel killed a process of this container" in done.stderr, done
    assert "container.memory = 96 MB" in done.stderr, done
    # The same container goes on, and its files still come.
    read = own_box.exec(project, "cat", "/opt/mine", "/opt/data/7")
    assert read.text == "1\n" + "7\n" * MARKER, read
    assert _groups_of_servers(own_box)
    assert not [group for group in _groups_of_servers(own_box) if "devloop-" in group]


def _groups_of_servers(box: Box) -> list[str]:
    family = [Path(f"/proc/{one.pid}") for one in box.agent().children(recursive=True)]
    servers = [one for one in family if b"devloop.cafs.fuse" in (one / "cmdline").read_bytes()]
    return [(one / "cgroup").read_text() for one in servers]


def test_a_pull_brings_all_of_it_also_where_files_come_as_they_are_touched(
    box: Box, own_box: Box, tmp_path: Path
) -> None:
    project = lazy_project(box, own_box, tmp_path)
    assert own_box.exec(project, "cat", "/opt/data/7").text == "7\n" * MARKER
    refused = own_box.run(project, "image", "push", "--to", f"file://{tmp_path}/other")
    refused.assert_error("are not on this box")
    assert not is_complete(own_box)
    assert own_box.run(project, "image", "pull").code == 0
    assert is_complete(own_box)
    assert own_box.run(project, "image", "push", "--to", f"file://{tmp_path}/other").code == 0
    assert own_box.exec(project, "cat", "/opt/data/8").text == "8\n" * MARKER


def test_a_place_that_does_not_answer_is_told_when_the_image_comes(
    own_box: Box, tmp_path: Path
) -> None:
    write_layout(tmp_path / "layout", [Image([layer(small_root("sh"))])])
    project = own_box.project()
    (project / "devloop.toml").write_text(
        f'image = "oci:{tmp_path}/layout"\nstore = ["http://127.0.0.1:1"]\n'
    )
    told = "no place in `store` gave"
    pulled = own_box.run(project, "image", "pull")
    assert (pulled.code, told in pulled.stderr) == (0, True), pulled
    assert told not in own_box.exec(project, "sh", "-c", "exit 0").stderr
    own_box.run(project, "down")
    own_box.run(project, "image", "rm")

    up = Up(own_box, project, "--", "sh", "-c", "echo on")
    up.out.wait_for("on")
    assert told in up.leave()


def _fuse_mounts(box: Box) -> list[str]:
    """Of the agent's processes, each as it sees mounts."""
    family = box.agent().children(recursive=True)
    return [line for one in family for line in _mounts(one.pid) if " fuse." in line]


def _mounts(pid: int) -> list[str]:
    with contextlib.suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return []
