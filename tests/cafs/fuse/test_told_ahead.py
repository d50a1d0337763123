"""A file server that is told its work bit by bit does what its request says."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.cafs.fuse.mounted import mounted, needs_fuse, store_of, wait_for
from tests.cafs.fuse.small_images import image_of

from devloop.cafs.digest import digest_of
from devloop.cafs.fuse.request import Ahead, Announced
from devloop.cafs.profile import Command, Profile, Touch

if TYPE_CHECKING:
    from pathlib import Path

    from devloop.cafs.digest import Digest

pytestmark = pytest.mark.root

ONE, ONES_BLOBS = image_of({"one": b"one"})
OTHER, OTHERS_BLOBS = image_of({"other": b"other"})
ONE_NAME, OTHER_NAME = digest_of(ONE.encode()), digest_of(OTHER.encode())


@pytest.fixture(autouse=True)
def _fuse() -> None:
    needs_fuse()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store_of(tmp_path / "store", OTHER, OTHERS_BLOBS)
    return store_of(tmp_path / "store", ONE, ONES_BLOBS)


@pytest.mark.parametrize(
    "announced", [ONE_NAME, OTHER_NAME, digest_of(b"")], ids=["it", "another", "none"]
)
def test_the_image_of_the_request_is_served_whatever_was_announced(
    tmp_path: Path, store: Path, announced: Digest
) -> None:
    told = [Ahead(()).encode(), Announced(store, announced).encode()]
    with mounted(tmp_path, store, ONE_NAME, before=told) as server:
        assert server.path_of(digest_of(b"one")).read_bytes() == b"one"
        assert not server.path_of(digest_of(b"other")).exists()


@pytest.mark.parametrize("is_announced", [False, True])
def test_without_a_request_it_ends_and_says_nothing(store: Path, is_announced: bool) -> None:
    told = Ahead(()).encode() + Announced(store, ONE_NAME).encode() * is_announced
    command = [sys.executable, "-m", "devloop.cafs.fuse"]
    done = subprocess.run(command, input=told, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_what_a_profile_names_comes_before_there_is_a_request(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", ONE, {})
    tier = store_of(tmp_path / "tier", ONE, ONES_BLOBS)
    profile = tmp_path / "profile"
    profile.write_bytes(Profile(ONE_NAME, Command("x", ()), (Touch(digest_of(b"one")),)).encode())
    command = [sys.executable, "-m", "devloop.cafs.fuse"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(Ahead((f"file://{tier}",)).encode())
        process.stdin.write(Announced(store, ONE_NAME, str(profile)).encode())
        process.stdin.flush()
        name = digest_of(b"one").hex()
        wait_for((store / "blobs" / name[:2] / name[2:]).exists, "the blob")
        process.stdin.close()
        assert process.wait() == 0
