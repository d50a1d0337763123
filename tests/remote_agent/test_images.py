"""The agent's images: who waits for what, and what nobody removes. From real layouts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.images.layout import Image as LayoutImage
from tests.images.layout import layer, write_layout

from devloop.cafs.images import Image, ImageMissing
from devloop.remote_agent.images import Images, Wish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
    async for state in images.ensure(wish, refresh=refresh):
        if isinstance(state, Image):
            return state
    raise AssertionError("it ended without an image")


class TestRemoval:
    async def test_what_was_pulled_and_is_not_used_goes(self, images: Images, wish: Wish) -> None:
        image = await ensured(images, wish, refresh=True)
        assert (await images.remove(wish.reference)).removed_blobs == 1
        with pytest.raises(ImageMissing):
            images.store.config(image.index_digest)

    @pytest.mark.parametrize("is_here", [False, True])
    async def test_an_image_that_a_run_was_promised_stays_until_the_run_has_come(
        self, images: Images, wish: Wish, is_here: bool
    ) -> None:
        if is_here:
            await ensured(images, wish, refresh=True)
        image = await ensured(images, wish)
        assert (await images.remove(wish.reference)).removed_blobs == 0
        assert images.store.is_complete(image.index_digest)
        assert not images.store.missing(images.store.index(image.index_digest))

    async def test_an_image_stays_while_a_run_starts_in_it(
        self, images: Images, wish: Wish
    ) -> None:
        image = await ensured(images, wish, refresh=True)
        async with images.holding(image.index_digest):
            assert (await images.remove(wish.reference)).removed_blobs == 0
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
            await images.remove(wish.reference)
            image = await asking
            assert not images.store.missing(images.store.index(image.index_digest))
