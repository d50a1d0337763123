"""A FUSE server whose tiers have faults: each is an error of its reader's, at most."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest
from tests.cafs.fuse.mounted import mounted, needs_fuse, store_of
from tests.cafs.fuse.small_images import image_of, noise

from devloop.cafs.digest import digest_of
from devloop.cafs.profile import Command, Profile, Touch

pytestmark = pytest.mark.root

SMALL = [noise(30_000, number) for number in range(8)]
LARGE = noise(9_000_000, 9)
INDEX, BLOBS = image_of({"large": LARGE, **{f"s/{n}": data for n, data in enumerate(SMALL)}})
IMAGE = digest_of(INDEX.encode())
DEADLINE_S = 2.0
FAULTY = [str(Path(__file__).with_name("faulty_server.py"))]


@pytest.fixture(autouse=True)
def _fuse() -> None:
    needs_fuse()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return store_of(tmp_path / "store", INDEX, {})


@pytest.fixture
def tier(tmp_path: Path) -> str:
    return f"file://{store_of(tmp_path / 'tier', INDEX, BLOBS)}"


def read_error(path: Path) -> tuple[int | None, float]:
    """What a reader gets, and after how many seconds."""
    began = time.monotonic()
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno, time.monotonic() - began
    return None, time.monotonic() - began


@pytest.mark.parametrize("data", [SMALL[0], LARGE], ids=["small", "large"])
def test_a_raise_in_a_tier_is_an_error_of_its_reader_at_once(
    tmp_path: Path, store: Path, tier: str, data: bytes
) -> None:
    digest = digest_of(data)
    tiers = [f"{tier}?raise"]
    with mounted(tmp_path, store, IMAGE, tiers=tiers, program=FAULTY, deadline_s=20) as server:
        for _ in range(3):  # it lives
            found, seconds = read_error(server.path_of(digest))
            assert found == errno.EIO
            assert seconds < 5
        said = server.event("failed", digest=digest.hex())["reason"]
        assert " at faulty_server.py:" in said
        assert server.process.poll() is None


@pytest.mark.parametrize("data", [SMALL[0], LARGE], ids=["small", "large"])
def test_after_a_raise_in_a_tier_the_next_one_is_asked(
    tmp_path: Path, store: Path, tier: str, data: bytes
) -> None:
    profile = tmp_path / "profile"
    touches = tuple(Touch(digest_of(each)) for each in SMALL[4:])
    profile.write_bytes(Profile(IMAGE, Command("x", ()), touches).encode())
    tiers = [f"{tier}?raise", tier]
    with mounted(
        tmp_path, store, IMAGE, tiers=tiers, program=FAULTY, profile=str(profile)
    ) as server:
        for each in (data, *SMALL[4:]):
            assert server.path_of(digest_of(each)).read_bytes() == each


def test_a_tier_that_hangs_after_one_blob_has_served_that_one(
    tmp_path: Path, store: Path, tier: str
) -> None:
    profile = tmp_path / "profile"
    touches = tuple(Touch(digest_of(data)) for data in SMALL)
    profile.write_bytes(Profile(IMAGE, Command("x", ()), touches).encode())
    with mounted(
        *(tmp_path, store, IMAGE),
        tiers=[f"{tier}?stick"],
        program=FAULTY,
        profile=str(profile),
        deadline_s=DEADLINE_S,
    ) as server:
        began = time.monotonic()
        assert server.path_of(digest_of(SMALL[0])).read_bytes() == SMALL[0]
        assert time.monotonic() - began < DEADLINE_S / 2
        found, seconds = read_error(server.path_of(digest_of(SMALL[1])))
        assert found == errno.EIO
        assert seconds < DEADLINE_S + 1  # and not for the batch's deadline before
