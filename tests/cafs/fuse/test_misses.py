"""A FUSE server whose blobs are elsewhere: what its readers get, and what it survives."""

from __future__ import annotations

import contextlib
import errno
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.cafs.fuse.mounted import (
    mounted,
    needs_fuse,
    private_namespace,
    store_of,
    wait_for,
)
from tests.cafs.fuse.small_images import image_of, noise
from tests.cafs.tiers.servers import serve_nothing, serve_static

from devloop.cafs.digest import digest_of
from devloop.cafs.fuse.connection import abort
from devloop.cafs.images import ImageStore

if TYPE_CHECKING:
    from tests.cafs.fuse.mounted import Mounted

    from devloop.cafs.digest import Digest

pytestmark = pytest.mark.root

SMALL, LARGE = noise(100_000, 1), noise(12_000_000, 2)
INDEX, BLOBS = image_of({"usr/bin/tool": SMALL, "usr/lib/large.so": LARGE})
IMAGE = digest_of(INDEX.encode())
DEADLINE_S = 1.5


@pytest.fixture(autouse=True)
def _fuse() -> None:
    needs_fuse()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return store_of(tmp_path / "store", INDEX, {})


@pytest.fixture
def tier(tmp_path: Path) -> Path:
    return store_of(tmp_path / "tier", INDEX, BLOBS)


def blob_in(folder: Path, digest: Digest) -> Path:
    return folder / "blobs" / digest.hex()[:2] / digest.hex()[2:]


def spoil(folder: Path, data: bytes) -> None:
    path = blob_in(folder, digest_of(data))
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def read_error(server: Mounted, digest: Digest) -> tuple[int | None, float]:
    """What a reader gets, and after how many seconds."""
    began = time.monotonic()
    try:
        server.path_of(digest).read_bytes()
    except OSError as error:
        return error.errno, time.monotonic() - began
    return None, time.monotonic() - began


def test_a_piece_of_a_large_file_comes_before_all_of_it(
    tmp_path: Path, store: Path, tier: Path
) -> None:
    digest = digest_of(LARGE)
    with (
        serve_static(tier) as address,
        mounted(tmp_path, store, IMAGE, tiers=[address]) as server,
    ):
        with server.path_of(digest).open("rb") as file:
            file.seek(7_000_000)
            assert file.read(50_000) == LARGE[7_000_000:7_050_000]
        fetched = server.event("fetched", digest=digest.hex())  # the rest, behind its back
        assert fetched["size_bytes"] == len(LARGE)
        assert server.path_of(digest).read_bytes() == LARGE
        wait_for(blob_in(store, digest).exists)
    assert blob_in(store, digest).read_bytes() == LARGE


def test_many_readers_of_one_file_fetch_it_once(tmp_path: Path, store: Path, tier: Path) -> None:
    digest = digest_of(SMALL)
    with mounted(tmp_path, store, IMAGE, tiers=[f"file://{tier}"]) as server:
        with ThreadPoolExecutor(20) as readers:
            found = readers.map(lambda _: server.path_of(digest).read_bytes(), range(20))
            assert set(found) == {SMALL}
        server.event("fetched", digest=digest.hex())
        assert sum(event["event"] == "fetched" for event in server.read_events()) == 1


def test_a_file_that_no_tier_has_is_an_error_of_its_reader_alone(
    tmp_path: Path, store: Path, tier: Path
) -> None:
    digest = digest_of(SMALL)
    blob_in(tier, digest).unlink()
    with mounted(tmp_path, store, IMAGE, tiers=[f"file://{tier}"]) as server:
        assert read_error(server, digest)[0] == errno.EIO
        failed = server.event("failed", digest=digest.hex())
        assert failed["file"] == "/usr/bin/tool"
        assert "does not have it" in failed["reason"]
        assert server.path_of(digest_of(LARGE)).read_bytes() == LARGE
        store_of(tier, INDEX, {digest: SMALL})  # it comes back
        assert server.path_of(digest).read_bytes() == SMALL


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_wrong_bytes_are_never_served(tmp_path: Path, store: Path, tier: Path, data: bytes) -> None:
    digest = digest_of(data)
    spoil(tier, data)
    with mounted(tmp_path, store, IMAGE, tiers=[f"file://{tier}"]) as server:
        assert read_error(server, digest)[0] == errno.EIO
        assert server.event("tier", digest=digest.hex())["tier"] == f"file://{tier}"
    good = store_of(tmp_path / "good", INDEX, BLOBS)
    tiers = [f"file://{tier}", f"file://{good}"]
    with mounted(tmp_path, store, IMAGE, tiers=tiers) as server:
        assert server.path_of(digest).read_bytes() == data


def test_an_upstream_that_never_answers_is_an_error_within_the_deadline(
    tmp_path: Path, store: Path
) -> None:
    """Others are served meanwhile."""
    local = digest_of(SMALL)
    with ImageStore(store) as images:
        images.blobs.put(local, SMALL)
    with (
        serve_nothing() as silent,
        mounted(tmp_path, store, IMAGE, tiers=[silent], deadline_s=DEADLINE_S) as server,
        ThreadPoolExecutor(1) as beside,
    ):
        stuck = beside.submit(read_error, server, digest_of(LARGE))
        assert server.path_of(local).read_bytes() == SMALL
        assert not stuck.done()
        found, seconds = stuck.result(20)
        assert found == errno.EIO
        assert DEADLINE_S - 0.5 < seconds < 2 * DEADLINE_S + 1
        assert server.event("failed", digest=digest_of(LARGE).hex())["file"] == "/usr/lib/large.so"


def test_few_descriptors_are_enough(tmp_path: Path) -> None:
    files = {f"f{number}": noise(3_000, number) for number in range(80)}
    index, blobs = image_of(files)
    store = store_of(tmp_path / "store", index, {})
    tier = store_of(tmp_path / "tier", index, blobs)
    with (
        mounted(
            tmp_path,
            store,
            digest_of(index.encode()),
            tiers=[f"file://{tier}"],
            deadline_s=20,
            wrapper=["prlimit", "--nofile=40", "--"],
        ) as server,
        contextlib.ExitStack() as stack,
    ):
        opened = [stack.enter_context(server.path_of(digest).open("rb")) for digest in blobs]
        assert [file.read() for file in opened] == list(blobs.values())
        assert server.process.poll() is None


def test_at_the_end_of_its_starter_nothing_is_mounted(
    tmp_path: Path, store: Path, tier: Path
) -> None:
    with (
        private_namespace() as namespace,
        mounted(tmp_path, store, IMAGE, tiers=[f"file://{tier}"], namespace=namespace) as server,
    ):
        assert len(namespace.mounts()) == 1
        assert server.end() == 0
        assert namespace.mounts() == []


def test_when_the_server_is_killed_readers_fail_at_once(tmp_path: Path, store: Path) -> None:
    with (
        serve_nothing() as silent,
        private_namespace() as namespace,
        mounted(
            tmp_path, store, IMAGE, tiers=[silent], deadline_s=60, namespace=namespace
        ) as server,
    ):
        with ThreadPoolExecutor(1) as beside:
            stuck = beside.submit(read_error, server, digest_of(SMALL))
            wait_for(lambda: _asks(server, silent), "the reader")
            server.process.send_signal(signal.SIGKILL)
            found, _ = stuck.result(5)
        assert found in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
        assert read_error(server, digest_of(SMALL))[0] == errno.ENOTCONN


def test_an_abort_frees_readers_that_are_stuck(tmp_path: Path, store: Path) -> None:
    with (
        serve_nothing() as silent,
        private_namespace() as namespace,
        mounted(
            tmp_path, store, IMAGE, tiers=[silent], deadline_s=60, namespace=namespace
        ) as server,
        ThreadPoolExecutor(1) as beside,
    ):
        stuck = beside.submit(read_error, server, digest_of(SMALL))
        wait_for(lambda: _asks(server, silent), "the reader")
        began = time.monotonic()
        abort(server.mountpoint, pid=namespace.process.pid)
        assert stuck.result(5)[0] in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
        assert time.monotonic() - began < 1


def _asks(server: Mounted, address: str) -> bool:
    """Has it connected to its tier? It does so for a reader."""
    port = int(address.rpartition(":")[2])
    found = psutil.Process(server.process.pid).net_connections("tcp")
    return any(one.raddr and one.raddr.port == port for one in found)


def test_what_came_whole_no_longer_needs_its_tier(tmp_path: Path, store: Path, tier: Path) -> None:
    with mounted(tmp_path, store, IMAGE, tiers=[f"file://{tier}"]) as server:
        for digest, data in BLOBS.items():
            if data in (SMALL, LARGE):
                assert server.path_of(digest).read_bytes() == data
        server.event("fetched", digest=digest_of(LARGE).hex())
    with mounted(tmp_path, store, IMAGE) as server:
        assert server.path_of(digest_of(SMALL)).read_bytes() == SMALL
        assert server.path_of(digest_of(LARGE)).read_bytes() == LARGE
