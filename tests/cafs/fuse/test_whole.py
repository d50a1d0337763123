"""An image that came piece by piece is marked complete once all of it is here, and not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.cafs.fuse.mounted import mounted, needs_fuse, store_of, wait_for
from tests.cafs.fuse.small_images import image_of, noise

from devloop.cafs.digest import digest_of
from devloop.cafs.images import ImageStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cafs.fuse.mounted import Mounted

pytestmark = pytest.mark.root

FILES = {f"f{number}": noise(4_000, number) for number in range(30)}
LARGE = noise(6_000_000, 99)
INDEX, BLOBS = image_of({"large": LARGE, **FILES})
IMAGE = digest_of(INDEX.encode())


@pytest.fixture(autouse=True)
def _fuse() -> None:
    needs_fuse()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return store_of(tmp_path / "store", INDEX, {})


@pytest.fixture
def tier(tmp_path: Path) -> str:
    return f"file://{store_of(tmp_path / 'tier', INDEX, BLOBS)}"


def is_complete(store: Path) -> bool:
    with ImageStore(store) as images:
        return images.is_complete(IMAGE)


def read(server: Mounted, *files: bytes) -> None:
    for data in files:
        assert server.path_of(digest_of(data)).read_bytes() == data


def test_it_is_complete_once_its_last_file_was_read(tmp_path: Path, store: Path, tier: str) -> None:
    *first, last = FILES.values()
    with mounted(tmp_path, store, IMAGE, tiers=[tier]) as server:
        read(server, LARGE, *first)
        wait_for(lambda: _stored(store) == len(BLOBS) - 1)
        assert not is_complete(store)
        read(server, last)
        wait_for(lambda: is_complete(store), "the mark")


def test_what_came_during_several_starts_is_complete_at_the_end_of_the_last(
    tmp_path: Path, store: Path, tier: str
) -> None:
    """Each server ends before it has looked by itself."""
    files = list(FILES.values())
    for part in (files[:10], files[10:20], [*files[20:], LARGE]):
        assert not is_complete(store)
        with mounted(tmp_path, store, IMAGE, tiers=[tier]) as server:
            read(server, *part)
            if LARGE in part:
                server.event("fetched", digest=digest_of(LARGE).hex())
            server.end()
    assert is_complete(store)


def test_what_others_brought_is_complete_without_a_read(tmp_path: Path, store: Path) -> None:
    with ImageStore(store) as images:
        for digest, data in BLOBS.items():
            images.blobs.put(digest, data)
    with mounted(tmp_path, store, IMAGE):
        wait_for(lambda: is_complete(store), "the mark")


def test_a_torn_file_is_none_that_is_here(tmp_path: Path, store: Path, tier: str) -> None:
    with ImageStore(store) as images:
        for digest, data in BLOBS.items():
            images.blobs.put(digest, data)
        torn = images.blobs.path_of(digest_of(FILES["f0"]))
    torn.chmod(0o644)
    torn.write_bytes(b"")
    with mounted(tmp_path, store, IMAGE, tiers=[tier]) as server:
        read(server, FILES["f1"])
        server.end()
    assert not is_complete(store)
    with mounted(tmp_path, store, IMAGE, tiers=[tier]) as server:
        read(server, FILES["f0"])  # which heals it
        wait_for(lambda: is_complete(store), "the mark")


def _stored(store: Path) -> int:
    return sum(1 for _ in (store / "blobs").glob("??/[!.]*"))
