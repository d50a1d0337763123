"""What a start touched, noted by the file server that shows a whole tree."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.images.layout import File, Image, layer, write_layout
from tests.images.programs import small_root
from tests.remote_agent.container.rooms import Room, skip_unless_possible

from devloop.cafs.digest import digest_of
from devloop.cafs.errors import DevloopError
from devloop.cafs.fuse.check import check_fuse
from devloop.cafs.images import ImageStore
from devloop.cafs.oci.ingest import ingest
from devloop.cafs.oci.source import open_image
from devloop.cafs.profile import Touch
from devloop.remote_agent.container.spec import ContainerSpec, ImageRoot
from devloop.remote_agent.image_profiles import ImageProfiles, profiles_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL, OTHER = b"small\n", b"other\n"
LARGE = bytes(range(256)) * 20_000  # 5 MB: noted in pieces


@dataclass(frozen=True, slots=True)
class Asked:
    container: ContainerSpec
    argv: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EndedRun:
    """What is asked of a run."""

    spec: Asked
    ended: asyncio.Event


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    entries = {"small": File(SMALL), "other": File(OTHER), "large": File(LARGE)}
    write_layout(tmp_path / "layout", [Image([layer({**entries, **small_root("sh", "head")})])])
    with ImageStore(tmp_path / "images") as store:
        source = open_image(f"oci:{tmp_path}/layout:latest")
        try:
            store.name("touched", "sha256:" + "1" * 64, store.add(ingest(source, store.blobs)))
        finally:
            source.close()
        yield store


def test_files_that_were_opened_are_noted_in_their_order(tmp_path: Path, store: ImageStore) -> None:
    skip_unless_possible("crun")
    try:
        check_fuse()
    except DevloopError:
        pytest.skip("needs FUSE")
    digest = store.get("touched").index_digest
    root = ImageRoot("fuse+overlay", store.index_path(digest), store.root, digest.hex())
    room = Room.enter(tmp_path, "crun", root=root, mounts=())
    try:
        room.spec = replace(room.spec, records=True)
        profiles = ImageProfiles(room.containers)
        room.containers.on_served = profiles.heard
        script = "read -r x </small; head -c 4096 /large >/dev/null; read -r x </small"
        assert room.run("/bin/sh", "-c", script).code == 0
        run: Any = EndedRun(Asked(room.spec, (b"sh",)), asyncio.Event())
        run.ended.set()
        room.runner.run(profiles.record(store, run))
    finally:
        room.close()
    (found,) = profiles_of(store, digest)
    touched = [touch.digest for touch in found.touches]
    assert touched.index(digest_of(SMALL)) < touched.index(digest_of(LARGE))
    assert digest_of(OTHER) not in touched
    pieces = [touch for touch in found.touches if touch.digest == digest_of(LARGE)]
    assert pieces == [Touch(digest_of(LARGE), 0, 1)]
