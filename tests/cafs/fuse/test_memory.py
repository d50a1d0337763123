"""The server of a container that stays warm for weeks: its memory is that of its image, and does
not grow with what is read."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.cafs.fuse.mounted import mounted, needs_fuse, store_of
from tests.cafs.fuse.small_images import image_of, noise

from devloop.cafs.digest import digest_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cafs.fuse.mounted import Mounted

    from devloop.cafs.digest import Digest
    from devloop.cafs.fuse.request import Mode

pytestmark = pytest.mark.root

FILES = 1_000
FETCHED_EACH_ROUND = 10
ROUNDS = 1_000 if os.environ.get("DEVLOOP_SOAK") == "1" else 6
CONTENTS = {f"usr/lib/{n % 50}/f{n}": noise(2_000 + n % 5_000, n) for n in range(FILES)}
INDEX, BLOBS = image_of(CONTENTS)


@pytest.mark.parametrize("mode", ["blobs", "tree"])
def test_memory_stays_flat_however_much_is_read(
    tmp_path: Path, mode: Mode, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each round reads every file from the server, and some of them have to be fetched again."""
    needs_fuse()
    store = store_of(tmp_path / "store", INDEX, BLOBS)
    tiers = [f"file://{store_of(tmp_path / 'tier', INDEX, BLOBS)}"]
    with mounted(
        tmp_path, store, digest_of(INDEX.encode()), mode=mode, tiers=tiers, deadline_s=30
    ) as server:
        server_process = psutil.Process(server.process.pid)
        began, sizes = time.monotonic(), []
        for number in range(ROUNDS):
            drop_some(store, number)
            read_all(server, mode)
            sizes.append(server_process.memory_info().rss)
        fetched = sum(event["event"] == "fetched" for event in server.read_events())
    first, last = sizes[1], sizes[-1]
    with capsys.disabled():
        print(
            f"\n{mode}: {ROUNDS * FILES:,} reads, {fetched:,} of them fetched, in "
            f"{time.monotonic() - began:.0f} s: {first / 1e6:.1f} MB, then {last / 1e6:.1f} MB"
        )
    assert fetched >= FETCHED_EACH_ROUND * (ROUNDS - 1)
    assert last < first * 1.1 + 8e6


def drop_some(store: Path, number: int) -> None:
    """Of those that were read first, and that no descriptor is kept of."""
    digests = list(map(digest_of, CONTENTS.values()))[: FILES // 2]
    for place in range(FETCHED_EACH_ROUND):
        blob_path(store, digests[(number * FETCHED_EACH_ROUND + place) % len(digests)]).unlink()


def blob_path(store: Path, digest: Digest) -> Path:
    return store / "blobs" / digest.hex()[:2] / digest.hex()[2:]


def read_all(server: Mounted, mode: Mode) -> None:
    """None of it from the kernel's memory."""
    root = os.open(server.root, os.O_PATH | os.O_DIRECTORY)
    for name, data in CONTENTS.items():
        digest = digest_of(data).hex()
        path = name if mode == "tree" else f"{digest[:2]}/{digest[2:]}"
        fd = os.open(path, os.O_RDONLY, dir_fd=root)
        assert os.read(fd, 1 << 16) == data, path
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    os.close(root)
    server.read_events()
