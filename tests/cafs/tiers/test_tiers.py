"""What every tier does, over a folder, a static HTTP server and a real sshd; and chains of them."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import pytest
from tests.cafs.fuse.mounted import store_of
from tests.cafs.fuse.small_images import image_of, noise
from tests.cafs.tiers.servers import serve_nothing, serve_static

from devloop.cafs.digest import digest_of, split_digests
from devloop.cafs.errors import BlobMismatch, BlobMissing
from devloop.cafs.index import CHUNK_BYTES, chunk_list_bytes
from devloop.cafs.tiers import (
    BlobUnavailable,
    Note,
    TierInvalid,
    TierReadOnly,
    Tiers,
    TierUnreachable,
    open_tier,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from devloop.cafs.tiers import Tier

SMALL, LARGE = noise(5_000, 1), noise(6_500_000, 2)
INDEX, BLOBS = image_of({"a": SMALL, "b": LARGE})
ABSENT = digest_of(b"absent")
NAME = f"indexes/{digest_of(INDEX.encode()).hex()}"
PROFILE = f"profiles/{'a' * 64}-{'b' * 16}"


@pytest.fixture(params=["file", "http", "http without ranges", "ssh"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """An images folder with everything in it."""
    (tmp_path / "state").mkdir()
    return store_of(tmp_path / "state/images", INDEX, BLOBS)


@pytest.fixture
def address(
    kind: str, served: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if kind == "file":
        yield f"file://{served}"
    elif kind == "ssh":
        yield ssh_address(request, served, monkeypatch)
    else:
        with serve_static(served, ranges=kind == "http") as address:
            yield address


def ssh_address(
    request: pytest.FixtureRequest, served: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Of a real sshd; `ssh` finds it by a configuration that stands before the user's own."""
    sshd = request.getfixturevalue("sshd")
    programs = served.parent / "bin"
    programs.mkdir()
    wrapper = programs / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {sshd.config} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return f"ssh://{sshd.alias}{served.parent}"


@pytest.fixture
def tier(address: str) -> Iterator[Tier]:
    tier = open_tier(address, timeout_s=10)
    yield tier
    tier.close()


def test_what_is_there_is_known_without_being_fetched(tier: Tier) -> None:
    assert tier.has([*BLOBS, ABSENT]) == set(BLOBS)


def test_blobs_come_whole(tier: Tier) -> None:
    for digest, data in BLOBS.items():
        assert b"".join(tier.fetch(digest, len(data))) == data
    with pytest.raises(BlobMissing):
        list(tier.fetch(ABSENT, 10))


@pytest.mark.parametrize(
    ("offset", "size_bytes"), [(0, 10), (1, 1), (1 << 20, 1 << 20), (6_499_990, 10), (0, 6_500_000)]
)
def test_ranges_come_as_asked(tier: Tier, offset: int, size_bytes: int) -> None:
    found = tier.fetch_range(digest_of(LARGE), offset, size_bytes)
    assert found == LARGE[offset : offset + size_bytes]


def test_a_range_of_what_is_not_there_is_missing(tier: Tier) -> None:
    with pytest.raises(BlobMissing):
        tier.fetch_range(ABSENT, 0, 10)


def test_many_small_blobs_come_without_those_that_are_not_there(tier: Tier) -> None:
    small = [(digest, len(data)) for digest, data in BLOBS.items() if len(data) < 100_000]
    assert dict(tier.fetch_many([*small, (ABSENT, 10)])) == {d: BLOBS[d] for d, _ in small}


def test_named_files_come_by_their_name(tier: Tier) -> None:
    assert tier.get_named(NAME) == INDEX.encode()
    assert tier.get_named(f"indexes/{ABSENT.hex()}") is None


def test_what_was_put_is_there_for_the_next_one(
    kind: str, address: str, tier: Tier, tmp_path: Path
) -> None:
    new = noise(200_000, 3)
    file = tmp_path / "new"
    file.write_bytes(new)
    if kind.startswith("http"):
        with pytest.raises(TierReadOnly, match="cannot be pushed"):
            tier.put_blob(digest_of(new), len(new), file)
        return
    with pytest.raises(BlobMismatch):
        tier.put_blob(ABSENT, len(new), file)
    tier.put_blob(digest_of(new), len(new), file)
    tier.put_named(PROFILE, b"touched")
    tier.close()
    again = open_tier(address)
    assert again.has([digest_of(new), ABSENT]) == {digest_of(new)}
    assert b"".join(again.fetch(digest_of(new), len(new))) == new
    assert again.list_named(f"profiles/{'a' * 64}-") == [PROFILE]
    assert again.get_named(PROFILE) == b"touched"
    again.close()


@pytest.mark.parametrize("text", ["ftp://x/y", "file://host/x", "x", "http://", "ssh://h:port/x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(TierInvalid, match="not the address"):
        open_tier(text)


def test_one_that_is_not_there_is_unreachable_by_name() -> None:
    for address in ("http://127.0.0.1:1", "file:///nowhere/at/all", "ssh://nowhere.invalid"):
        tier = open_tier(address, timeout_s=2)
        with pytest.raises((TierUnreachable, BlobMissing), match=r".+"):
            list(tier.fetch(ABSENT, 10))
        tier.close()


@pytest.mark.parametrize(("umask", "others"), [(0o022, 0o5), (0o077, 0)])
def test_a_folder_is_readable_for_whom_the_umask_lets(
    tmp_path: Path, umask: int, others: int
) -> None:
    """A web server that runs as another user, say."""
    blob = tmp_path / "blob"
    blob.write_bytes(SMALL)
    before = os.umask(umask)
    try:
        with contextlib.closing(open_tier(f"file://{tmp_path}/tier")) as tier:
            tier.put_blob(digest_of(SMALL), len(SMALL), blob)
            tier.put_named(PROFILE, b"named")
    finally:
        os.umask(before)
    for path in [tmp_path / "tier", *(tmp_path / "tier").rglob("*")]:
        assert path.stat().st_mode & 0o7 == others & (0o5 if path.is_dir() else 0o4), path


class TestChains:
    def chain(self, *addresses: str, timeout_s: float = 2.0) -> Tiers:
        self.notes: list[Note] = []
        tiers = [open_tier(address, timeout_s=timeout_s) for address in addresses]
        return Tiers(tiers, tell=self.notes.append)

    def spoil(self, served: Path, data: bytes) -> None:
        name = digest_of(data).hex()
        path = served / "blobs" / name[:2] / name[2:]
        path.chmod(0o644)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    def test_wrong_bytes_are_never_given_and_the_next_tier_is_asked(
        self, served: Path, tmp_path: Path
    ) -> None:
        good = store_of(tmp_path / "good", INDEX, BLOBS)
        self.spoil(served, SMALL)
        self.spoil(served, LARGE)
        listed = next(data for data in BLOBS.values() if data not in (SMALL, LARGE))
        chunks = list(split_digests(listed))
        assert len(listed) == chunk_list_bytes(len(LARGE))
        last = (len(chunks) - 1) * CHUNK_BYTES
        with self.chain(f"file://{served}", f"file://{good}") as tiers:
            fetched = tiers.get(digest_of(SMALL), len(SMALL))
            assert (fetched.data, fetched.tier) == (SMALL, f"file://{good}")
            piece = tiers.get_range(digest_of(LARGE), last, len(LARGE) - last, chunks[-1:])
            assert piece.data == LARGE[last:]
            assert dict(tiers.get_many([(digest_of(SMALL), len(SMALL))])) == {
                digest_of(SMALL): SMALL
            }
        assert {(n.tier, n.digest) for n in self.notes} == {
            (f"file://{served}", digest_of(SMALL)),
            (f"file://{served}", digest_of(LARGE)),
        }

    def test_with_wrong_bytes_only_there_is_nothing(self, served: Path) -> None:
        self.spoil(served, SMALL)
        with self.chain(f"file://{served}") as tiers:
            with pytest.raises(BlobUnavailable, match="has other bytes"):
                tiers.get(digest_of(SMALL), len(SMALL))
            with pytest.raises(BlobUnavailable):
                list(tiers.get_many([(digest_of(SMALL), len(SMALL))]))

    def test_one_that_never_answers_costs_its_timeout_once(self, served: Path) -> None:
        with serve_nothing() as silent, self.chain(silent, f"file://{served}") as tiers:
            began = time.monotonic()
            assert tiers.get(digest_of(SMALL), len(SMALL)).data == SMALL
            first_s = time.monotonic() - began
            began = time.monotonic()
            for _ in range(20):
                tiers.get(digest_of(SMALL), len(SMALL))
            assert time.monotonic() - began < first_s
        assert [note.tier for note in self.notes] == [silent]
