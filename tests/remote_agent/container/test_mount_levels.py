"""Every way to mount an image, forced: a container on it is the same to who runs in it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.images.layout import Dir, File, Hardlink, Image, Symlink, layer, write_layout
from tests.images.programs import small_root
from tests.remote_agent.container.rooms import Room, skip_unless_possible

from devloop.cafs.images import ImageStore
from devloop.cafs.mount import probe
from devloop.cafs.oci.ingest import ingest
from devloop.cafs.oci.source import open_image
from devloop.remote_agent.container.spec import FolderRoot, ImageRoot
from devloop.remote_agent.image_copies import ImageCopies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devloop.cafs.mount.root import LevelName

LEVELS: tuple[LevelName, ...] = ("erofs+overlay", "tmpfs+overlay", "fuse+overlay", "unpacked")
IS_ROOT = os.geteuid() == 0
LARGE = bytes(range(256)) * 20_000  # 5 MB: verified in pieces where it is fetched
ENTRIES = {
    **small_root("sh", "cat", "ls", "stat", "readlink", "md5sum", "mv", "rm", "mkdir"),
    "opt": Dir(),
    "opt/one": File(b"content\n", 0o640, 7, 8),
    "opt/two": Hardlink("opt/one"),
    "opt/link": Symlink("one"),
    "opt/empty": File(b"", 0o4755),
    "opt/large": File(LARGE),
    "opt/hello": File(b"#!/bin/sh\necho hello $1\n", 0o755),
    "opt/sub": Dir(0o1777, 3, 4),
    "opt/sub/far": File(b"far\n"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageStore]:
    folder = tmp_path_factory.mktemp("levels")
    write_layout(folder / "layout", [Image([layer(ENTRIES)])])
    with ImageStore(folder / "images") as store:
        source = open_image(f"oci:{folder}/layout:latest")
        try:
            digest = store.add(ingest(source, store.blobs))
        finally:
            source.close()
        store.ensure_metadata(digest)
        store.name("levels", "sha256:" + "1" * 64, digest)
        yield store


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, store: ImageStore) -> LevelName:
    wanted: LevelName = request.param
    best = probe(store.root).name
    if LEVELS.index(best) > LEVELS.index(wanted):
        pytest.skip("needs EROFS" if wanted == "erofs+overlay" else "needs FUSE")
    return wanted


@pytest.fixture
def enter(tmp_path: Path, store: ImageStore, level: LevelName) -> Iterator[Callable[[], Room]]:
    """A room in a container of its own, each time."""
    skip_unless_possible("crun")
    rooms: list[Room] = []

    def enter() -> Room:
        folder = tmp_path / str(len(rooms))
        folder.mkdir()
        rooms.append(Room.enter(folder, "crun", root=_root(store, level), mounts=()))
        return rooms[-1]

    yield enter
    for room in rooms:
        room.close()


@pytest.fixture
def room(enter: Callable[[], Room]) -> Room:
    return enter()


def _root(store: ImageStore, level: LevelName) -> ImageRoot | FolderRoot:
    digest = store.get("levels").index_digest
    if level == "unpacked":
        copies = ImageCopies(store.root)
        assert copies.ensure(store, digest) == []
        return FolderRoot(copies.path(digest))
    metadata = {"erofs+overlay": store.metadata_path}.get(level, store.index_path)
    return ImageRoot(level, metadata(digest), store.root, digest.hex())


def said(room: Room, script: str) -> list[str]:
    ended = room.run("/bin/sh", "-ec", script)
    assert (ended.stderr, ended.code) == (b"", 0), ended
    return ended.stdout.decode().splitlines()


def test_it_is_mounted_as_it_was_asked_for(room: Room, level: LevelName) -> None:
    """Or else this file would test one level three times."""
    (line,) = [line for line in said(room, "cat /proc/mounts") if line.split()[1] == "/"]
    assert line.split()[2] == "overlay"
    assert {"nosuid", "nodev"} <= set(line.split()[3].split(","))
    container = room.containers._places[room.spec]._container
    keeper = Path(f"/proc/{container._keeper.process.pid}/mountinfo").read_text()
    assert (" fuse.devloop-tree " in keeper) == (level == "fuse+overlay")
    assert ("metacopy=on" in line) == (level != "unpacked" and IS_ROOT)


def test_its_files_are_those_of_the_image(room: Room) -> None:
    found = said(
        room,
        "cd /opt; cat one two link sub/far; readlink link; stat -c '%a %u %g %h %s' one empty;"
        "stat -c '%a %u %g %F' sub; md5sum <large; ls; [ one -ef two ] && echo same",
    )
    assert found == [
        *("content", "content", "content", "far", "one"),
        *("640 7 8 2 8", "4755 0 0 1 0", "1777 3 4 directory"),
        f"{hashlib.md5(LARGE).hexdigest()}  -",
        *("empty", "hello", "large", "link", "one", "sub", "two"),
        "same",
    ]


def test_its_programs_run(room: Room) -> None:
    assert said(room, "/opt/hello you; exec /opt/hello again") == ["hello you", "hello again"]
    assert room.run("/opt/hello", "directly").stdout == b"hello directly\n"


def test_what_is_changed_is_seen_until_the_container_ends(enter: Callable[[], Room]) -> None:
    room = enter()
    said(
        room,
        "cd /opt; echo more >>one; mv sub moved; rm empty link; mkdir empty;"
        "echo new >moved/new; echo '#!/bin/sh' >run; echo 'echo ran' >>run; : >large",
    )
    look = "cd /opt; cat one; ls . moved; stat -c %s large; cat two"
    assert said(room, look) == [
        *("content", "more"),
        *(".:", "empty", "hello", "large", "moved", "one", "run", "two", "", "moved:"),
        *("far", "new", "0", "content"),
        *(["more"] if IS_ROOT else []),  # a hard link of the image, which only root can keep
    ]
    assert said(enter(), "cd /opt; ls; cat one two; stat -c %s large") == [
        *("empty", "hello", "large", "link", "one", "sub", "two"),
        *("content", "content", str(len(LARGE))),
    ]
