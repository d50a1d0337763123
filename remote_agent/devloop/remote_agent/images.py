"""The agent's images: how one comes to the box, and what of them is kept.

Owns the order of things: what is here already, then tiers, then the registry; several clients that
want one image wait for the same work. Refuses to know gRPC, how layers are read (`cafs.oci`), how
blobs are fetched (`cafs.tiers`) and how images are mounted (`container`).
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from devloop.cafs.digest import digest_of
from devloop.cafs.errors import DevloopError
from devloop.cafs.images import ImageMissing, ImageStore

from .image_copies import ImageCopies
from .image_details import details_of
from .image_holds import ImageHolds
from .image_profiles import profiles_of
from .image_tiers import ImageTiers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from devloop.cafs.digest import Digest
    from devloop.cafs.errors import Problem
    from devloop.cafs.images import Collected, Image
    from devloop.cafs.index import Index
    from devloop.cafs.oci.source import ImageSource, RegistryOptions
    from devloop.cafs.tiers import Tier

    from .image_details import ImageDetails

__all__ = ["Brought", "ImageBusy", "ImageStep", "Images", "Told", "Wish"]

DOCKER_HUB = "docker.io"
_PATH_KINDS = ("oci", "oci-archive", "docker-archive")
_TELL_PERIOD_S = 0.1


class ImageBusy(DevloopError):
    """Images cannot be removed while one is on its way in."""

    hint = "try again when the pull has ended"


class NoWorkspace(DevloopError):
    """A relative path starts in the project's files on the box."""

    hint = (
        "`devloop exec --image host -- true` brings them there; or name an absolute path of the box"
    )


class ManyNames(DevloopError):
    """Which of several images is to be removed?"""

    hint = "name one of them"


class _Abandoned(Exception):
    """Nobody waits for this pull any more."""


class ImageStep(IntEnum):
    """Values as in the protocol."""

    RESOLVING = 1
    FETCHING = 2
    MOUNTING = 4


@dataclass(frozen=True, slots=True)
class Wish:
    """An image, and where it may come from. `workspace`: where a relative path starts; `command`:
    what will probably run in it.

    `whole`: with every blob, also where a tier has them.
    """

    reference: str
    store: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    workspace: Path | None = None
    command: tuple[bytes, ...] = field(default=(), compare=False)
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """How far a pull is. Bytes are those that travel; 0 in all: not known yet."""

    step: ImageStep
    done_bytes: int = 0
    total_bytes: int = 0
    done_layers: int = 0
    layers: int = 0


@dataclass(frozen=True, slots=True)
class Brought:
    """`notes`: what the user should know of how it came, a line each."""

    image: Image
    notes: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class _Pull:
    """Work that several clients may wait for; the last one that leaves ends it."""

    told: Told = Told(ImageStep.RESOLVING)
    followers: int = 0
    is_for_run: bool = False
    is_abandoned: bool = False
    task: asyncio.Task[Brought] | None = None
    notes: list[str] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def tell(self, told: Told) -> None:
        """From the threads that do the work. Raises _Abandoned."""
        if self.is_abandoned:
            raise _Abandoned
        self.told = told


class Images:
    """Every method belongs to the thread of the event loop."""

    def __init__(self, root: Path, used: Callable[[], Iterable[Digest]] = tuple) -> None:
        """`used`: the indexes that live containers need. `on_lazy` is told in a thread, while the
        rest of a pull goes on, that an index is here whose blobs may not be, and for what command.
        """
        self.root = root
        self.copies = ImageCopies(root)
        self._used = used
        self.on_lazy: Callable[[Digest, Sequence[bytes]], None] = lambda index, command: None
        self._pulls: dict[Wish, _Pull] = {}
        self._holds = ImageHolds()
        self._collecting = asyncio.Lock()
        self._collections = 0

    @cached_property
    def store(self) -> ImageStore:
        """Opened when the first image is asked for: most projects have none."""
        return ImageStore(self.root)

    def close(self) -> None:
        if "store" in self.__dict__:
            self.store.close()

    # -- bringing in

    async def ensure(
        self, wish: Wish, *, refresh: bool = False
    ) -> AsyncGenerator[Told | Brought, None]:
        """How far it is, several times a second; then the image, once runs may name it.

        `refresh`: all of what the reference stands for now. Without, a run comes next: until then
        nobody removes it.
        """
        wish = replace(wish, whole=wish.whole or refresh)
        if not refresh and (image := await self._found(wish)) is not None:
            yield Brought(image)
            return
        while True:
            pull = await self._joined(wish)
            pull.is_for_run |= not refresh
            try:
                assert pull.task is not None
                while not pull.task.done():
                    yield pull.told
                    await asyncio.wait({pull.task}, timeout=_TELL_PERIOD_S)
                yield pull.task.result()
                return
            except _Abandoned:
                continue  # it had ended before we came
            finally:
                pull.followers -= 1
                pull.is_abandoned = not pull.followers

    async def _joined(self, wish: Wish) -> _Pull:
        """That of the wish, of which the caller is a follower from now on."""
        async with self._collecting:
            pull = self._pulls.get(wish)
            if pull is None:
                pull = self._pulls[wish] = _Pull()
                pull.task = asyncio.create_task(self._pull(wish, pull))
                pull.task.add_done_callback(_heard)
            pull.followers += 1
            pull.is_abandoned = False  # one that was given up goes on, unless it has noticed
            return pull

    async def _pull(self, wish: Wish, pull: _Pull) -> Brought:
        """Raises DevloopErrors and _Abandoned."""
        try:
            image = await asyncio.to_thread(self._bring_in, wish, pull)
            if pull.is_for_run:
                self._holds.keep(image.index_digest)
            return Brought(image, tuple(pull.notes))
        finally:
            del self._pulls[wish]

    async def _found(self, wish: Wish) -> Image | None:
        """The image if it is here, which nobody removes from now on."""
        while True:
            async with self._collecting:
                collections = self._collections
            image = await asyncio.to_thread(self._find, wish)
            if collections == self._collections:
                if image is not None:
                    self._holds.keep(image.index_digest)
                return image
            # A collection has begun, which did not know of it.

    @contextlib.asynccontextmanager
    async def holding(self, index: Digest) -> AsyncGenerator[None, None]:
        """Nobody removes that image meanwhile."""
        async with self._collecting:  # one that is under way may be taking it
            holding = self._holds.holding(index)
        with holding:
            yield

    def _find(self, wish: Wish) -> Image | None:
        image = self.store.find(_name_of(wish))
        if image is None or not self._is_usable(image, wish) or _has_changed(image, wish):
            return None
        self.store.ensure_metadata(image.index_digest)
        return image

    def is_whole(self, wish: Wish) -> bool:
        """Is every blob of it here, as far as is known? For a thread."""
        image = self.store.find(_name_of(wish))
        return image is not None and self.store.is_complete(image.index_digest)

    def _is_usable(self, image: Image, wish: Wish) -> bool:
        """One of which blobs are missing needs a tier to have them from."""
        return bool(wish.store and not wish.whole) or self.store.is_complete(image.index_digest)

    def _bring_in(self, wish: Wish, pull: _Pull) -> Image:
        """In a thread. Raises DevloopErrors and _Abandoned."""
        name = _name_of(wish)
        with ThreadPoolExecutor(1) as beside, self._tiers(wish, pull) as tiers:
            # While the registry is asked what the reference stands for, what tiers say it does.
            told = beside.submit(tiers.image, name)
            try:
                source = _open_source(wish)
            except DevloopError as error:
                # It is not to be had there: what it was, as far as a tier knows.
                if (image := told.result()) is None:
                    raise
                self._take(image, error, wish, tiers, pull)
                return self._ready(image, pull)
            with contextlib.closing(source):
                told.result()
                index = self._index_of(source, wish, tiers, pull)
                return self._ready(self.store.name(name, source.manifest_digest, index), pull)

    def _take(
        self, image: Image, error: DevloopError, wish: Wish, tiers: ImageTiers, pull: _Pull
    ) -> None:
        """An image of which tiers alone say what it is, since the registry said `error`."""
        from devloop.cafs.tiers import BlobUnavailable

        said = f"{error}: {image.reference} is what {tiers.giver} says that it is"
        pull.notes = [said, *tiers.notes(image.reference)]
        try:
            if wish.whole:
                self._bring_blobs(image.index_digest, tiers, pull)
        except BlobUnavailable as gap:
            raise ImageMissing(f"{error}; {gap}", hint=error.hint) from gap

    def _index_of(self, source: ImageSource, wish: Wish, tiers: ImageTiers, pull: _Pull) -> Digest:
        """The image's, from the nearest who has it, once blobs are here as the wish has it."""
        index = self.store.index_of_manifest(source.manifest_digest)
        if index is not None and self.store.is_complete(index):
            return index
        if index is None:
            index = tiers.index(source.manifest_digest)
        if index is not None and tiers and self._is_brought(index, wish, tiers, pull):
            pull.notes = tiers.notes(_name_of(wish)) if tiers.giver else []
            return index
        pull.notes += tiers.notes(_name_of(wish))
        return self.store.add(self._ingest(source, pull))

    def _is_brought(self, index: Digest, wish: Wish, tiers: ImageTiers, pull: _Pull) -> bool:
        """As far as the wish has it. False where tiers no longer have a blob."""
        from devloop.cafs.tiers import BlobUnavailable

        try:
            if wish.whole:
                self._bring_blobs(index, tiers, pull)
        except BlobUnavailable as error:
            pull.notes.append(f"{error}: all of the image is fetched")
            return False
        return True

    def _bring_blobs(self, index: Digest, tiers: ImageTiers, pull: _Pull) -> None:
        def tell(done_bytes: int, total_bytes: int) -> None:
            pull.tell(Told(ImageStep.FETCHING, done_bytes, total_bytes))

        if not self.store.is_complete(index):
            tiers.bring(index, tell)

    def _tiers(self, wish: Wish, pull: _Pull) -> ImageTiers:
        def on_index(index: Digest) -> None:
            if not wish.whole:
                self.on_lazy(index, wish.command)

        return ImageTiers(self.store, wish.store, on_index)

    def _ready(self, image: Image, pull: _Pull) -> Image:
        pull.tell(Told(ImageStep.MOUNTING))
        self.store.ensure_metadata(image.index_digest)
        return image

    def _ingest(self, source: ImageSource, pull: _Pull) -> Index:
        from devloop.cafs.oci.ingest import Progress, ingest

        def tell(progress: Progress) -> None:
            pull.tell(
                Told(
                    ImageStep.FETCHING,
                    progress.done_bytes,
                    progress.size_bytes,
                    sum(layer.state == "done" for layer in progress.layers),
                    len(progress.layers),
                )
            )

        return ingest(source, self.store.blobs, self.store, progress=tell)

    async def unpack(self, index: Digest) -> list[Problem]:
        """Makes `copies.path` of it, of which every blob is here. Raises StoreFull."""
        async with self.holding(index):
            return await asyncio.to_thread(self.copies.ensure, self.store, index)

    # -- passing on

    async def push(self, wish: Wish, tier: str) -> AsyncGenerator[tuple[int, int, int], None]:
        """Copies what the tier lacks. Yields (bytes done, bytes in all, blobs sent)."""
        image = await asyncio.to_thread(self._get, wish)
        state = [(0, 0, 0)]
        pushing = asyncio.create_task(asyncio.to_thread(self._push, image, tier, state))
        while not pushing.done():
            yield state[0]
            await asyncio.wait({pushing}, timeout=_TELL_PERIOD_S)
        await pushing
        yield state[0]

    def _push(self, image: Image, url: str, state: list[tuple[int, int, int]]) -> None:
        from devloop.cafs.tiers import open_tier

        index = self.store.index(image.index_digest)
        blobs = index.blobs()
        if missing := self.store.missing(index):
            raise ImageMissing(
                f"{len(missing):,} blobs of {image.reference} are not on this box",
                hint="`devloop image pull` brings in all of it",
            )
        tier = open_tier(url)
        try:
            total_bytes = sum(blobs.values())
            there = tier.has(list(blobs))
            done_bytes = sum(blobs[digest] for digest in there)
            for sent, digest in enumerate([d for d in blobs if d not in there], 1):
                tier.put_blob(digest, blobs[digest], self.store.blobs.path_of(digest))
                done_bytes += blobs[digest]
                state[0] = (done_bytes, total_bytes, sent)
            self._push_names(image, tier)
            state[0] = (total_bytes, total_bytes, state[0][2])
        finally:
            tier.close()

    def _push_names(self, image: Image, tier: Tier) -> None:
        """Last: what a name leads to is there."""
        hexed = image.index_digest.hex()
        profiles = [f"profiles/{p.name}" for p in profiles_of(self.store, image.index_digest)]
        ref = f"refs/{digest_of(image.reference.encode()).hex()}.json"
        manifest = f"manifests/{image.manifest.replace(':', '-')}"
        for name in (f"indexes/{hexed}", *profiles, manifest, ref):
            tier.put_named(name, (self.root / name).read_bytes())

    # -- upkeep

    def inspect(self, wish: Wish) -> ImageDetails:
        """For a thread. Raises ImageMissing."""
        return details_of(self.store, self._get(wish))

    async def remove(self, wish: Wish) -> tuple[Collected, bool]:
        """Also: does a run need its files, so that they stay?

        Raises ImageMissing, ImageBusy, and ManyNames for an index of several images.
        """
        image = await asyncio.to_thread(self._get, wish, is_one=True)
        async with self._collection() as used:
            self.store.unname(image.reference)
            removed = await asyncio.to_thread(self._drop_all_but, used)
            is_named = any(i.index_digest == image.index_digest for i in self.store.list())
            return removed, image.index_digest in used and not is_named

    async def collect(self) -> Collected:
        """Raises ImageBusy."""
        async with self._collection() as used:
            return await asyncio.to_thread(self._drop_all_but, used)

    @contextlib.asynccontextmanager
    async def _collection(self) -> AsyncGenerator[set[Digest], None]:
        """With the indexes that runs need: whoever asks for another one meanwhile looks again."""
        async with self._collecting:
            if self._pulls:
                names = ", ".join(wish.reference for wish in self._pulls)
                given_up = all(pull.is_abandoned for pull in self._pulls.values())
                what = "was given up and has not ended yet" if given_up else "is under way"
                raise ImageBusy(f"the pull of {names} {what}")
            self._collections += 1
            yield {*self._used(), *self._holds.held()}

    def _drop_all_but(self, used: set[Digest]) -> Collected:
        live = {index.hex() for index in (*used, *(i.index_digest for i in self.store.list()))}
        copies_bytes = self.copies.collect(live)
        removed = self.store.collect(used, grace_s=0)
        return removed._replace(removed_bytes=removed.removed_bytes + copies_bytes)

    def _get(self, wish: Wish, *, is_one: bool = False) -> Image:
        """What is called so, or has an index that begins so."""
        found = self.store.of_index(wish.reference) or [self.store.get(_name_of(wish))]
        if is_one and len(found) > 1:
            names = ", ".join(image.reference for image in found)
            raise ManyNames(f"{wish.reference} is the index of {names}")
        return found[0]

    async def verify(self) -> tuple[int, list[str]]:
        """How many blobs there were, and what is wrong."""

        def verify() -> tuple[int, list[str]]:
            return sum(1 for _ in self.store.blobs), list(self.store.verify())

        return await asyncio.to_thread(verify)


def _heard(task: asyncio.Task[Brought]) -> None:
    """Of a pull that was given up nobody asks how it ended."""
    if not task.cancelled():
        task.exception()


def _name_of(wish: Wish) -> str:
    from devloop.cafs.oci.source import normalised

    kind, colon, path = wish.reference.partition(":")
    if not colon or kind not in _PATH_KINDS or path[:1] in ("", "/", "~"):
        return normalised(wish.reference)
    if wish.workspace is None:
        raise NoWorkspace(f"{wish.reference}: nothing of this project is on the box yet")
    return normalised(f"{kind}:{wish.workspace / path}")


def _has_changed(image: Image, wish: Wish) -> bool:
    """A folder or archive is asked each time, since that is cheap; a registry only by a pull."""
    if image.reference.partition(":")[0] not in _PATH_KINDS:
        return False
    try:
        with contextlib.closing(_open_source(wish)) as source:
            return source.manifest_digest != image.manifest
    except DevloopError:
        return False  # gone meanwhile, or being written: what was brought in is still good


def _open_source(wish: Wish) -> ImageSource:
    from devloop.cafs.oci.source import open_image

    return open_image(_name_of(wish), options=_options(wish))


def _options(wish: Wish) -> RegistryOptions:
    """A mirror is one of Docker Hub, as docker has it, or "registry=mirror"."""
    from devloop.cafs.oci.source import RegistryOptions

    mirrors: dict[str, list[str]] = {}
    for text in wish.mirrors:
        registry, equals, mirror = text.partition("=")
        mirrors.setdefault(registry if equals else DOCKER_HUB, []).append(mirror or registry)
    return RegistryOptions(insecure=wish.insecure, mirrors=mirrors)
