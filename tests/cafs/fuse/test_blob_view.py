"""The view of blobs: what only a tier has is fetched when it is read first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.cafs.fuse.mounted import mounted, needs_fuse, store_of, wait_for
from tests.cafs.fuse.small_images import image_of, noise

from devloop.cafs.digest import digest_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _fuse() -> None:
    needs_fuse()


def test_a_blob_that_only_the_tier_has_is_served_and_stored(tmp_path: Path) -> None:
    data = noise(100_000)
    index, blobs = image_of({"usr/bin/tool": data})
    tier = store_of(tmp_path / "tier", index, blobs)
    store = store_of(tmp_path / "store", index, {})
    digest = digest_of(data)
    with mounted(tmp_path, store, digest_of(index.encode()), tiers=[f"file://{tier}"]) as server:
        path = server.path_of(digest)
        assert path.stat().st_size == len(data)
        assert not server.find("fetched")
        assert path.read_bytes() == data
        assert server.event("fetched", digest=digest.hex())["tier"] == f"file://{tier}"
        stored = store / "blobs" / digest.hex()[:2] / digest.hex()[2:]
        wait_for(stored.exists)
        assert stored.read_bytes() == data
        assert stored.stat().st_mode & 0o777 == 0o444
