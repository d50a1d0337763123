"""An image that is no good is one clear error, and nothing of what was there before is lost."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.cafs.oci.stack import Member, tar_of
from tests.images.layout import Image, blob_path, layer, put_blob, write_layout
from tests.images.possible import skip_unless_containers
from tests.images.programs import small_root
from tests.images.registry import Login, missing_program, start_registry

from .box import open_box

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.images.registry import Registry

    from .box import Box

FILES = [Member(b"etc/", b"5", mode=0o755), Member(b"etc/motd", data=b"hello\n" * 5_000)]
TERABYTE = {
    b"GNU.sparse.major": b"1",
    b"GNU.sparse.minor": b"0",
    b"GNU.sparse.name": b"huge",
    b"GNU.sparse.realsize": b"%d" % (1 << 40),
}
HOLES = Member(b"huge", data=b"1\n0\n512\n".ljust(512, b"\0") + b"x" * 512, pax=TERABYTE)


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    skip_unless_containers()


@pytest.fixture(scope="module")
def healthy() -> Iterator[tuple[Box, Path]]:
    """A box with a project whose image is good, and has been pulled."""
    with open_box() as box:
        yield box, with_a_good_image(box)


def with_a_good_image(box: Box) -> Path:
    write_layout(box.base / "good", [Image([layer(small_root("sh", "cat"))])])
    project = box.project()
    (project / "devloop.toml").write_text(f'image = "oci:{box.base}/good:latest"\n')
    pulled = box.run(project, "image", "pull")
    assert pulled.code == 0, pulled
    return project


def assert_nothing_is_lost(box: Box, project: Path) -> None:
    """The store is sound, the good image is all that it lists, and it runs."""
    verified = box.run(project, "image", "verify")
    assert verified.code == 0, verified
    listed = json.loads(box.run(project, "image", "ls", "--json").text)
    assert [image["reference"] for image in listed["images"]] == [f"oci:{box.base}/good:latest"]
    done = box.exec(project, "cat", "/etc/passwd")
    assert done.text.startswith("root:x:0:0:"), done


def refused(box: Box, project: Path, image: str, words: str) -> None:
    box.run(project, "exec", "--image", image, "--", "true").assert_error(words)
    assert_nothing_is_lost(box, project)


# ---------------------------------------------------------------------- what layers hold


@pytest.mark.parametrize(
    ("members", "words"),
    [
        pytest.param([Member(b"../evil")], "leads out of the image: '../evil'", id="dots"),
        pytest.param([Member(b"n" * 4_096)], "a path of 4,096 bytes", id="a long name"),
        pytest.param(
            [Member(b"d/" * 2_040 + b"n" * 16)], "a path of 4,096 bytes", id="a long path"
        ),
        pytest.param([Member(b".wh.")], "a whiteout of nothing", id="a bare whiteout"),
        pytest.param(
            [Member(b"l", b"1", link=b"none")], "which is no file", id="a link to nothing"
        ),
        pytest.param([HOLES], "a file of 1,099,511,627,776 bytes", id="a terabyte of nothing"),
        pytest.param([b"no tar at all".ljust(512)], "is no tar", id="no tar"),
    ],
)
def test_a_layer_that_makes_no_tree(
    healthy: tuple[Box, Path], tmp_path: Path, members: list[Member | bytes], words: str
) -> None:
    write_layout(tmp_path / "bad", [Image([tar_of(FILES), tar_of(members)])])
    refused(*healthy, f"oci:{tmp_path}/bad:latest", words)


def test_absolute_and_duplicate_names_are_taken_for_what_they_mean(
    healthy: tuple[Box, Path], tmp_path: Path
) -> None:
    odd = tar_of([Member(b"/etc/motd", data=b"one\n"), Member(b"./etc//motd", data=b"two\n")])
    write_layout(tmp_path / "odd", [Image([layer(small_root("cat")), odd])])
    box, project = healthy
    name = f"oci:{tmp_path}/odd:latest"
    assert box.run(project, "exec", "--image", name, "--", "cat", "/etc/motd").text == "two\n"
    assert box.run(project, "image", "rm", name).code == 0
    assert_nothing_is_lost(box, project)


# ---------------------------------------------------------------------- what became of an image


def cut(layout: Path) -> None:
    stored = blob_path(layout, manifest_of(layout)["layers"][1]["digest"])
    stored.write_bytes(stored.read_bytes()[:-20])


def flip(layout: Path) -> None:
    stored = blob_path(layout, manifest_of(layout)["layers"][1]["digest"])
    data = bytearray(stored.read_bytes())
    data[len(data) // 2] ^= 1
    stored.write_bytes(data)


def take_away(layout: Path) -> None:
    blob_path(layout, manifest_of(layout)["layers"][1]["digest"]).unlink()


def change_diff_id(layout: Path) -> None:
    """Of a layer whose own digest is right."""
    manifest = manifest_of(layout)
    config = json.loads(blob_path(layout, manifest["config"]["digest"]).read_bytes())
    config["rootfs"]["diff_ids"][1] = f"sha256:{'0' * 64}"
    kind = manifest["config"]["mediaType"]
    manifest["config"] = put_blob(layout, kind, json.dumps(config).encode())
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0] |= put_blob(layout, manifest["mediaType"], json.dumps(manifest).encode())
    (layout / "index.json").write_text(json.dumps(index))


def manifest_of(layout: Path) -> dict[str, Any]:
    index = json.loads((layout / "index.json").read_text())
    found: dict[str, Any] = json.loads(
        blob_path(layout, index["manifests"][0]["digest"]).read_bytes()
    )
    return found


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(cut, "instead of"), (flip, "hashes to"), (take_away, "lacks"), (change_diff_id, "holds")],
)
def test_a_layer_that_is_not_what_the_image_says(
    healthy: tuple[Box, Path], tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    write_layout(tmp_path / "bad", [Image([tar_of(FILES), tar_of(FILES)], compress="plain")])
    spoil(tmp_path / "bad")
    refused(*healthy, f"oci:{tmp_path}/bad:latest", words)


# ---------------------------------------------------------------------- where it comes from


@pytest.mark.parametrize("name", ["team/none:1", "team/train:none"])
def test_an_unknown_image_and_an_unknown_tag(
    healthy: tuple[Box, Path], registry: Registry, name: str
) -> None:
    registry.push(f"oci:{healthy[0].base}/good:latest", "team/train:1")
    refused(*healthy, registry.name(name), f"has no image {name}")


def test_no_password_and_a_wrong_one(tmp_path: Path) -> None:
    if missing := missing_program():
        pytest.skip(f"needs {missing}")
    with (
        start_registry(tmp_path / "r", login=Login("ada", "right")) as registry,
        open_box(DOCKER_CONFIG=str(tmp_path)) as box,
    ):
        project = with_a_good_image(box)
        registry.push(f"oci:{box.base}/good:latest", "team/train:1")
        refused(box, project, registry.name("team/train:1"), "wants a login for team/train")
        login = base64.b64encode(b"ada:wrong").decode()
        auths = {"auths": {registry.host: {"auth": login}}}
        (tmp_path / "config.json").write_text(json.dumps(auths))
        refused(box, project, registry.name("team/train:1"), "refuses the password of ada")


def test_a_disk_that_is_full_in_mid_pull(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 24 << 20) as disk, open_box(DEVLOOP_STATE_DIR=str(disk)) as box:
        project = with_a_good_image(box)
        write_layout(tmp_path / "large", [Image([layer({"noise": os.urandom(30 << 20)})])])
        refused(box, project, f"oci:{tmp_path}/large:latest", f"{disk}/images")


@contextlib.contextmanager
def tmpfs(folder: Path, size_bytes: int) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tmpfs", folder], check=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
