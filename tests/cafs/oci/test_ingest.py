from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.cafs.oci.stack import Member, MemorySource, as_layer, tar_of

from devloop.cafs.digest import digest_of
from devloop.cafs.index import Index
from devloop.cafs.oci.ingest import ingest
from devloop.cafs.wholefiles import WholeFiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[WholeFiles]:
    files = WholeFiles(tmp_path / "images")
    yield files
    files.close()


def image(*layers: list[Member | bytes]) -> MemorySource:
    return MemorySource([as_layer(tar_of(members)) for members in layers])


@pytest.mark.parametrize("how", ["gzip", "zstd", "plain"])
def test_a_layer_becomes_blobs_and_an_index(blobs: WholeFiles, how: str) -> None:
    large = bytes(range(256)) * 20_000
    members = [
        Member(b"etc/", b"5", mode=0o755),
        Member(b"etc/hosts", data=b"127.0.0.1\n", mode=0o600, uid=1, gid=2),
        Member(b"etc/large", data=large),
        Member(b"etc/empty"),
        Member(b"etc/link", b"2", link=b"hosts"),
    ]
    index = ingest(MemorySource([as_layer(tar_of(members), how)]), blobs)
    by_path = {path: index.inodes[number] for path, number in index.names}
    assert list(by_path) == [b"", b"etc", b"etc/empty", b"etc/hosts", b"etc/large", b"etc/link"]
    hosts = by_path[b"etc/hosts"]
    assert hosts[:7] == ("file", 0o600, 1, 2, 1_600_000_000 * 10**9, 10, digest_of(b"127.0.0.1\n"))
    assert by_path[b"etc/link"].target == b"hosts"
    assert blobs.get(by_path[b"etc/large"].digest) == large
    assert sorted(blobs) == sorted(index.blobs())
    assert Index.decode(index.encode()) == index
