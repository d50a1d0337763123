"""The agent's images: who waits for what, and what nobody removes. From real layouts."""

from __future__ import annotations

import asyncio
import shutil
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from tests.images.layout import Image as LayoutImage
from tests.images.layout import layer, write_layout
from tests.images.meddler import meddle
from tests.images.registry import missing_program, start_registry

from devloop.cafs.digest import digest_of
from devloop.cafs.errors import BlobMissing, DevloopError
from devloop.cafs.images import Collected, ImageMissing
from devloop.remote_agent.images import Brought, ImageBusy, Images, Told, Wish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.images.meddler import Ask

    from devloop.cafs.images import Image


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Images]:
    images = Images(tmp_path / "images")
    yield images
    images.close()


@pytest.fixture
def wish(tmp_path: Path) -> Wish:
    write_layout(tmp_path / "layout", [LayoutImage([layer({"etc/name": b"one"})])])
    return Wish(f"oci:{tmp_path}/layout:latest")


async def ensured(images: Images, wish: Wish, *, refresh: bool = False) -> Image:
    return (await brought(images, wish, refresh=refresh)).image


async def brought(images: Images, wish: Wish, *, refresh: bool = False) -> Brought:
    async for state in images.ensure(wish, refresh=refresh):
        if isinstance(state, Brought):
            return state
    raise AssertionError("it ended without an image")


@pytest.fixture
async def tier(tmp_path: Path, wish: Wish) -> Path:
    """A folder to which another box has pushed the image."""
    await pushed(wish, tmp_path / "tier")
    return tmp_path / "tier"


async def pushed(wish: Wish, folder: Path) -> None:
    other = Images(folder.with_name("other"))
    await ensured(other, wish)
    async for _ in other.push(wish, f"file://{folder}"):
        pass
    other.close()


def biggest(store: Path) -> Path:
    """The largest blob of a tier or layout."""
    return max(store.glob("blobs/*/*"), key=lambda path: path.stat().st_size)


def spoil(file: Path, at: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


class TestTiers:
    async def test_the_index_alone_comes_from_a_tier(
        self, images: Images, wish: Wish, tier: Path
    ) -> None:
        image = await ensured(images, replace(wish, store=(f"file://{tier}",)))
        assert not images.store.is_complete(image.index_digest)

    @pytest.mark.parametrize(
        ("folder", "spoiled"),
        [
            *(
                ("refs", text)
                for text in (b"{", b"[]", b'{"manifest": 5}', b'{"manifest": "../x"}')
            ),
            ("refs", b"[" * 100_000),
            *(("manifests", text) for text in (b"", b"\xff", b"../../etc/passwd", b"0" * 64)),
            ("indexes", b"none"),
        ],
    )
    async def test_what_makes_no_sense_counts_as_not_there(
        self, images: Images, wish: Wish, tier: Path, folder: str, spoiled: bytes
    ) -> None:
        for path in (tier / folder).iterdir():
            path.write_bytes(spoiled)
        image = await ensured(images, replace(wish, store=(f"file://{tier}",)))
        assert images.store.is_complete(image.index_digest) == (folder != "refs")

    async def test_profiles_that_are_none_stay_where_they_are(
        self, images: Images, wish: Wish, tier: Path
    ) -> None:
        (index,) = (path.name for path in (tier / "indexes").iterdir())
        (tier / "profiles").mkdir()
        (tier / "profiles" / f"{index}-0123456789abcdef").write_bytes(b"none")
        (tier / "profiles" / f"{index}-0123456789abcdee").mkdir()
        image = await ensured(images, replace(wish, store=(f"file://{tier}",)))
        assert not images.store.is_complete(image.index_digest)
        assert not list((images.root / "profiles").iterdir())


async def test_a_relative_path_starts_in_the_workspace_for_all_that_is_done_with_an_image(
    images: Images, wish: Wish, tmp_path: Path
) -> None:
    wish = Wish("oci:./layout:latest", workspace=tmp_path)
    image = await ensured(images, wish, refresh=True)
    assert image.reference == f"oci:{tmp_path}/layout:latest"
    assert images.inspect(wish).image == image
    assert (await images.remove(wish))[0].removed_blobs == 1


async def test_a_relative_path_without_a_workspace_is_not_looked_up_anywhere(
    images: Images,
) -> None:
    with pytest.raises(DevloopError, match=r"oci:\./layout: nothing of this project is on the box"):
        await ensured(images, Wish("oci:./layout"))


class TestWhole:
    """A pull of an image that tiers have, too."""

    @pytest.fixture
    def large(self, tmp_path: Path) -> Wish:
        files = {f"data/{n}": b"%d" % n for n in range(700)} | {"large": b"x" * (3 << 20)}
        write_layout(tmp_path / "large", [LayoutImage([layer(files)])])
        return Wish(f"oci:{tmp_path}/large:latest")

    @pytest.fixture
    async def tiers(self, tmp_path: Path, large: Wish) -> tuple[Path, Path]:
        await pushed(large, tmp_path / "a")
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        return tmp_path / "a", tmp_path / "b"

    @pytest.fixture
    def pull(self, large: Wish, tiers: tuple[Path, Path]) -> Wish:
        return replace(large, store=tuple(f"file://{tier}" for tier in tiers))

    async def test_every_blob_comes_from_the_tiers(
        self, images: Images, pull: Wish, tiers: tuple[Path, Path], tmp_path: Path
    ) -> None:
        spoil(biggest(tiers[0]))
        spoil(biggest(tmp_path / "large"), at=1000)  # no layer can be read
        assert not images.store.is_complete((await ensured(images, pull)).index_digest)
        told = [state async for state in images.ensure(pull, refresh=True)]
        assert isinstance(found := told[-1], Brought)
        assert images.store.is_complete(found.image.index_digest)
        assert list(images.store.verify()) == []
        assert not list(images.root.glob("blobs/*/.tmp*"))
        steps = [state for state in told if isinstance(state, Told)]
        assert all(step.done_bytes <= max(step.total_bytes, 0) for step in steps)

    async def test_what_no_tier_has_any_more_is_fetched_as_ever(
        self, images: Images, pull: Wish, tiers: tuple[Path, Path]
    ) -> None:
        for tier in tiers:
            biggest(tier).unlink()
        found = await brought(images, pull, refresh=True)
        assert images.store.is_complete(found.image.index_digest)
        (note,) = found.notes
        assert "cannot be had" in note

    async def test_who_gives_blobs_under_no_name_gives_them_all_the_same(
        self, images: Images, pull: Wish, tiers: tuple[Path, Path]
    ) -> None:
        await ensured(images, pull)
        for tier in tiers:
            shutil.rmtree(tier / "refs")
        found = await brought(images, pull, refresh=True)
        assert images.store.is_complete(found.image.index_digest)
        assert found.notes == ()

    async def test_without_the_registry_it_is_whole_or_an_error(
        self, images: Images, pull: Wish, tiers: tuple[Path, Path], tmp_path: Path
    ) -> None:
        shutil.rmtree(tmp_path / "large")
        for tier in tiers:
            biggest(tier).rename(tier / "kept")
        with pytest.raises(ImageMissing, match=r"large.*cannot be had"):
            await ensured(images, pull, refresh=True)
        name = digest_of(b"x" * (3 << 20)).hex()
        (tiers[1] / "kept").rename(tiers[1] / "blobs" / name[:2] / name[2:])
        found = await brought(images, pull, refresh=True)
        assert images.store.is_complete(found.image.index_digest)
        assert found.notes[0].endswith(f"is what file://{tiers[0]} says that it is")


class TestNotes:
    async def test_who_asks_places_that_do_not_have_it_is_told_why_all_of_it_came(
        self, images: Images, wish: Wish, tmp_path: Path
    ) -> None:
        (tmp_path / "empty/blobs").mkdir(parents=True)
        urls = (f"file://{tmp_path}/none", f"file://{tmp_path}/empty", "http://127.0.0.1:1")
        found = await brought(images, replace(wish, store=urls))
        assert found.notes == (
            f"no place in `store` gave {wish.reference} "
            f"(file://{tmp_path}/none: there is no blob store; "
            f"file://{tmp_path}/empty: does not have it; "
            "http://127.0.0.1:1: Connection refused): all of it is fetched",
        )
        assert (await brought(images, replace(wish, store=urls))).notes == ()

    async def test_a_place_that_does_not_answer_is_told_where_another_one_does(
        self, images: Images, wish: Wish, tier: Path
    ) -> None:
        urls = ("http://127.0.0.1:1", f"file://{tier}")
        found = await brought(images, replace(wish, store=urls))
        assert found.notes == ("store: http://127.0.0.1:1: Connection refused",)
        assert not images.store.is_complete(found.image.index_digest)

    async def test_who_says_what_it_is_is_told_where_that_is_not_the_registry(
        self, images: Images, wish: Wish, tier: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "layout/index.json").unlink()
        found = await brought(images, replace(wish, store=(f"file://{tier}",)), refresh=True)
        (note,) = found.notes
        assert note.endswith(f"{wish.reference} is what file://{tier} says that it is")
        assert note.startswith(f"{tmp_path}/layout is no OCI layout: ")


class TestRemoval:
    async def test_what_was_pulled_and_is_not_used_goes(self, images: Images, wish: Wish) -> None:
        image = await ensured(images, wish, refresh=True)
        assert (await images.remove(wish))[0].removed_blobs == 1
        with pytest.raises(ImageMissing):
            images.store.config(image.index_digest)

    @pytest.mark.parametrize("is_here", [False, True])
    async def test_an_image_that_a_run_was_promised_stays_until_the_run_has_come(
        self, images: Images, wish: Wish, is_here: bool
    ) -> None:
        if is_here:
            await ensured(images, wish, refresh=True)
        image = await ensured(images, wish)
        assert await images.remove(wish) == (Collected(0, 0), True)
        assert images.store.is_complete(image.index_digest)
        assert not images.store.missing(images.store.index(image.index_digest))

    async def test_an_image_stays_while_a_run_starts_in_it(
        self, images: Images, wish: Wish
    ) -> None:
        image = await ensured(images, wish, refresh=True)
        async with images.holding(image.index_digest):
            assert await images.remove(wish) == (Collected(0, 0), True)
        assert (await images.collect()).removed_blobs == 1

    async def test_whoever_asks_while_it_is_removed_has_a_whole_one(
        self, images: Images, tmp_path: Path
    ) -> None:
        for number in range(10):
            data = b"%d" % number
            write_layout(tmp_path / f"{number}", [LayoutImage([layer({"etc/name": data})])])
            wish = Wish(f"oci:{tmp_path}/{number}:latest")
            await ensured(images, wish, refresh=True)
            asking = asyncio.create_task(ensured(images, wish))
            await images.remove(wish)
            image = await asking
            assert not images.store.missing(images.store.index(image.index_digest))


@dataclass
class Stall:
    """A rule: no blob is sent before `over`."""

    asked: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def __call__(self, ask: Ask) -> None:
        if ask.is_blob:
            self.asked += 1
            self.over.wait(20)


class TestGivenUp:
    @pytest.fixture
    def stall(self) -> Iterator[Stall]:
        stall = Stall()
        yield stall
        stall.over.set()

    @pytest.fixture
    def stalled(self, tmp_path: Path, wish: Wish, stall: Stall) -> Iterator[Wish]:
        """An image whose registry says nothing for a while."""
        if missing := missing_program():
            pytest.skip(f"needs {missing}")
        with start_registry(tmp_path / "registry") as registry, meddle(registry) as meddler:
            registry.push(wish.reference, "a/b:1")
            meddler.rules.append(stall)
            yield Wish(meddler.name("a/b:1"))

    async def test_a_pull_that_was_given_up_goes_on_for_who_asks_again(
        self, images: Images, stalled: Wish, stall: Stall
    ) -> None:
        await given_up(images, stalled, stall)
        again = asyncio.create_task(ensured(images, stalled, refresh=True))
        await asyncio.sleep(0)
        stall.over.set()
        assert (await again).reference == stalled.reference

    async def test_one_that_has_noticed_is_begun_anew(
        self, images: Images, stalled: Wish, stall: Stall
    ) -> None:
        await given_up(images, stalled, stall)
        with pytest.raises(ImageBusy, match="given up and has not ended"):
            await images.collect()
        (pull,) = images._pulls.values()
        stall.over.set()
        assert pull.task is not None
        await asyncio.wait({pull.task})
        assert (await ensured(images, stalled, refresh=True)).reference == stalled.reference

    async def test_one_that_has_ended_while_somebody_joins_is_begun_anew(
        self, images: Images, stalled: Wish, stall: Stall
    ) -> None:
        await given_up(images, stalled, stall)
        (pull,) = images._pulls.values()
        joined = images.ensure(stalled, refresh=True)
        assert await anext(joined) == pull.told
        pull.is_abandoned = True  # as its thread has seen it
        stall.over.set()
        states = [state async for state in joined]
        assert isinstance(states[-1], Brought)


async def given_up(images: Images, wish: Wish, stall: Stall) -> None:
    """Returns once the only one who waits for the image has left, and a blob was asked for."""
    following = images.ensure(wish, refresh=True)
    while not stall.asked:
        assert isinstance(await anext(following), Told)
    await following.aclose()


class TestCopies:
    """For boxes that can mount none."""

    async def test_two_who_want_a_copy_have_one(self, images: Images, wish: Wish) -> None:
        index = (await ensured(images, wish)).index_digest
        with pytest.raises(ImageMissing):
            images.copies.path(index)
        assert await asyncio.gather(images.unpack(index), images.unpack(index)) == [[], []]
        assert (images.copies.path(index) / "etc/name").read_bytes() == b"one"

    async def test_it_goes_with_its_image(self, images: Images, wish: Wish) -> None:
        index = (await ensured(images, wish, refresh=True)).index_digest
        await images.unpack(index)
        left = images.copies.path(index).with_name(f".tmp-{'0' * 64}")
        left.mkdir()
        await images.collect()
        assert images.copies.path(index).is_dir()
        assert not left.exists()
        removed, is_held = await images.remove(wish)
        assert not is_held
        assert removed.removed_bytes == 2 * len(b"one")
        assert not list((images.root / "unpacked").iterdir())

    async def test_one_that_cannot_be_made_leaves_nothing(self, images: Images, wish: Wish) -> None:
        index = (await ensured(images, wish)).index_digest
        images.store.blobs.delete(digest_of(b"one"))
        with pytest.raises(BlobMissing):
            await images.unpack(index)
        assert not list((images.root / "unpacked").iterdir())
