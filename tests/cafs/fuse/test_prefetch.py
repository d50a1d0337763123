"""What is fetched ahead of readers never costs them anything but their share of the link."""

from __future__ import annotations

import os
import time
from threading import Event, Lock
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from tests.cafs.fuse.mounted import store_of
from tests.cafs.fuse.small_images import image_of, noise

from devloop.cafs.digest import digest_of
from devloop.cafs.errors import BlobMissing
from devloop.cafs.fuse.descriptors import Descriptors
from devloop.cafs.fuse.events import Events
from devloop.cafs.fuse.misses import Misses
from devloop.cafs.fuse.prefetch import prefetch
from devloop.cafs.fuse.views import contents_of
from devloop.cafs.index import CHUNK_BYTES
from devloop.cafs.profile import Command, Profile, Touch
from devloop.cafs.tiers import Tiers
from devloop.cafs.tiers.directory import DirectoryTier
from devloop.cafs.tiers.landing import Landing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from devloop.cafs.digest import Digest
    from devloop.cafs.tiers.tier import Wanted

LARGE = noise(60 << 20, 1)
SMALL = [noise(20_000, number) for number in range(2, 40)]
INDEX, BLOBS = image_of({"large": LARGE, **{f"s/{n}": data for n, data in enumerate(SMALL)}})
CONTENTS = contents_of(INDEX)
DEADLINE_S = 1.0


class SlowLink(DirectoryTier):
    """A link of 25 MB/s that all share: `LARGE` takes more than two deadlines."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._link = Lock()

    def fetch_range(self, digest: Digest, offset: int, size_bytes: int) -> bytes:
        data = super().fetch_range(digest, offset, size_bytes)
        for _ in range(0, len(data), 1 << 16):
            with self._link:
                time.sleep((1 << 16) / 25e6)
        return data


class Faulty(DirectoryTier):
    def fetch_many(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Digest, bytes]]:
        raise ValueError("a fault in a tier")


class OneByOne(DirectoryTier):
    """Answers a request for one blob never, and one for many once somebody wants one of them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.is_asked, self.end = Event(), Event()

    def fetch(self, digest: Digest, size_bytes: int) -> Iterator[bytes]:
        self.is_asked.set()
        self.end.wait()
        raise BlobMissing(digest)

    def fetch_many(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Digest, bytes]]:
        self.is_asked.wait()
        digest, size_bytes = wanted[0]
        yield digest, b"".join(super().fetch(digest, size_bytes))
        self.end.wait()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Of the store and of the tier."""
    return store_of(tmp_path / "store", INDEX, {}), store_of(tmp_path / "tier", INDEX, BLOBS)


def while_fetching(
    store: Path,
    tier: DirectoryTier,
    touches: Sequence[Touch],
    read: Callable[[Misses], Awaitable[None]],
    events_of: Callable[[int], Events] = Events,
) -> None:
    """`read` runs while the touches are fetched."""
    profile = store.parent / "profile"
    profile.write_bytes(
        Profile(digest_of(INDEX.encode()), Command("x", ()), tuple(touches)).encode()
    )

    async def run(events: Events) -> None:
        async with trio.open_nursery() as nursery:
            landing = Landing(store)
            fds = Descriptors(100)
            misses = Misses(nursery, Tiers([tier]), landing, fds, events, deadline_s=DEADLINE_S)
            nursery.start_soon(prefetch, str(profile), CONTENTS, misses, events)
            await trio.testing.wait_all_tasks_blocked()
            await read(misses)
            nursery.cancel_scope.cancel()

    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        trio.run(run, events_of(nowhere.fileno()))


def test_a_reader_of_what_comes_late_does_not_wait_for_what_comes_before(
    folders: tuple[Path, Path],
) -> None:
    content = CONTENTS[digest_of(LARGE)]

    async def read(misses: Misses) -> None:
        await misses.ensure(content)
        large = misses.partial(content.digest)
        assert large is not None
        await misses.need(large, 55 << 20, 4096)

    store, tier = folders
    while_fetching(store, SlowLink(tier), [Touch(content.digest, 0, 240)], read)


def test_how_far_it_is_is_told_in_files_and_bytes(folders: tuple[Path, Path]) -> None:
    """A file with two pieces is one file; what the image has not is none."""
    store, folder = folders
    large = digest_of(LARGE)
    touches = [
        *(Touch(digest_of(data)) for data in SMALL),
        *(Touch(large, 0, 1), Touch(large, 2, 1), Touch(digest_of(b"not of the image"))),
    ]
    told: list[dict[str, int]] = []

    class Heard(Events):
        def tell(self, event: str, **fields: object) -> None:
            if event == "ahead":
                told.append(fields)  # type: ignore[arg-type]

    async def read(misses: Misses) -> None:
        with trio.fail_after(DEADLINE_S):
            while not told or told[-1]["files"] < told[-1]["of_files"]:
                await trio.sleep(0.01)

    while_fetching(store, DirectoryTier(folder), touches, read, Heard)
    of_bytes = sum(map(len, SMALL)) + 2 * CHUNK_BYTES
    whole = {"of_files": len(SMALL) + 1, "of_bytes": of_bytes}
    assert told[0] == {"files": 0, "size_bytes": 0, **whole}
    assert told[-1] == {"files": len(SMALL) + 1, "size_bytes": of_bytes, **whole}


def test_a_fault_in_a_tier_ends_nothing(folders: tuple[Path, Path]) -> None:
    async def read(misses: Misses) -> None:
        for data in SMALL:
            await misses.ensure(CONTENTS[digest_of(data)])
            os.close(misses.open(digest_of(data)))

    store, tier = folders
    while_fetching(store, Faulty(tier), [Touch(digest_of(data)) for data in SMALL], read)


def test_a_reader_goes_on_once_his_blob_of_a_batch_is_here(folders: tuple[Path, Path]) -> None:
    """The others of the batch hang, and so does what he has asked for himself."""
    store, folder = folders
    tier = OneByOne(folder)

    async def read(misses: Misses) -> None:
        with trio.fail_after(DEADLINE_S / 2):
            await misses.ensure(CONTENTS[digest_of(SMALL[0])])
        tier.end.set()
        os.close(misses.open(digest_of(SMALL[0])))

    while_fetching(store, tier, [Touch(digest_of(data)) for data in SMALL], read)


def test_a_start_is_over_when_nobody_has_wanted_anything_for_a_second(
    folders: tuple[Path, Path],
) -> None:
    store, _ = folders
    store_of(store, INDEX, BLOBS)
    content = CONTENTS[digest_of(SMALL[0])]

    async def run(events: Events, wanted: int) -> float:
        async with trio.open_nursery() as nursery:
            fds = Descriptors(100)
            misses = Misses(nursery, Tiers([]), Landing(store), fds, events, deadline_s=DEADLINE_S)

            async def want() -> None:
                for _ in range(wanted):
                    await misses.ensure(content)
                    await trio.sleep(0.75)

            began = trio.current_time()
            nursery.start_soon(want)
            await misses.quiet()
            nursery.cancel_scope.cancel()
        return trio.current_time() - began

    def takes_s(wanted: int) -> float:
        clock = trio.testing.MockClock(autojump_threshold=0)
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            return trio.run(run, Events(nowhere.fileno()), wanted, clock=clock)

    assert takes_s(1) == pytest.approx(1)
    assert takes_s(4) == pytest.approx(3 * 0.75 + 1)
    assert takes_s(1000) == pytest.approx(15)  # a program may read for ever
