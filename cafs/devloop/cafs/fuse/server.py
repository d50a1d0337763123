"""The FUSE server: mounts, serves until its standard input ends, unmounts.

Owns the process: its limits, its mount, its end. Refuses to know what is served and how.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

import pyfuse3
import trio

from devloop.cafs.errors import DevloopError
from devloop.cafs.ids import ids_here
from devloop.cafs.images import ImageStore
from devloop.cafs.tiers import Note, Tiers, open_tier
from devloop.cafs.tiers.landing import Landing
from devloop.cafs.uncollected import uncollected

from .connection import device_of, tune
from .descriptors import Descriptors
from .misses import Misses
from .operations import Operations
from .prefetch import prefetch
from .request import Ahead, Announced, Request
from .views import BlobView, TreeView, contents_of
from .whole import Whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from devloop.cafs.digest import Digest
    from devloop.cafs.index import Index
    from devloop.cafs.tiers import Tier

    from .events import Events
    from .views import Contents, View

__all__ = ["serve"]

_MOST_DESCRIPTORS = 512
_MOST_REQUESTS = 1000  # under way at once; the others wait in the kernel
_IDLE_TASKS = 8
_STDIN = 0
_MOST_LINE_BYTES = 1 << 20
_READ_BYTES = 1 << 16


class Upstream:
    """Where missing blobs come from."""

    def __init__(self, addresses: tuple[str, ...], deadline_s: float, events: Events) -> None:
        """Raises TierInvalid."""
        self.addresses = addresses
        self.deadline_s = deadline_s
        self.events = events
        # Two tiers that say nothing must not use up what a reader may wait.
        timeout_s = deadline_s / (len(addresses) + 1)
        self._opened = [open_tier(url, timeout_s=timeout_s) for url in addresses]
        self.tiers = Tiers(self._opened, tell=lambda note: _tell(events, note))

    def connect(self) -> None:
        """To each of them, behind the caller's back. Who does not answer now is named once somebody
        needs him."""
        for tier in self._opened:
            Thread(target=_greet, args=(tier,), daemon=True).start()


def _greet(tier: Tier) -> None:
    with contextlib.suppress(DevloopError, OSError):
        tier.has([])


class Shown(NamedTuple):
    """The image that is served."""

    digest: Digest  # of its index
    tree: Index
    contents: Contents


def read_image(store: Path, digest: Digest) -> Shown:
    """Raises ImageMissing, IndexInvalid."""
    with ImageStore(store) as images:
        index = images.index(digest)
    with uncollected():
        contents = contents_of(index)
    gc.freeze()  # it lives as long as the process does
    return Shown(digest, index, contents)


class Source(NamedTuple):
    """An image's blobs, as far as they are here or can be had."""

    shown: Shown
    misses: Misses
    landing: Landing
    fds: Descriptors
    profile: str  # what is fetched ahead, a file


def serve(events: Events) -> None:
    """Does what standard input says (`request`), until it ends or the mount is gone. Raises
    DevloopErrors before it has said "ready"."""
    trio.run(_serve, events)


async def _serve(events: Events) -> None:
    lines, upstream = Lines(), None
    line = await lines.next()
    if ahead := Ahead.decode(line):
        upstream = Upstream(ahead.tiers, ahead.deadline_s, events)
        upstream.connect()
        line = await lines.next()
        if announced := Announced.decode(line):
            async with _announced(announced, upstream) as source:
                line = await lines.next()
                if source and (request := announced.request(line, ahead)):
                    await _show(request, source, lines, events)
                    return
        if not line:
            return  # there was no request after all
    request = Request.decode(line)
    if upstream is None or upstream.addresses != request.tiers:
        upstream = Upstream(request.tiers, request.deadline_s, events)
    shown = read_image(request.store, request.image)
    async with _source(request.store, shown, request.profile, upstream) as source:
        await _show(request, source, lines, events)


@contextlib.asynccontextmanager
async def _announced(announced: Announced, upstream: Upstream) -> AsyncIterator[Source | None]:
    """What is wrong with it matters only if it is asked for."""
    shown = None
    with contextlib.suppress(DevloopError):
        shown = read_image(announced.store, announced.image)
    if shown is None:
        yield None
        return
    async with _source(announced.store, shown, announced.profile, upstream) as source:
        yield source


@contextlib.asynccontextmanager
async def _source(
    store: Path, shown: Shown, profile: str, upstream: Upstream
) -> AsyncIterator[Source]:
    """Fetches what the profile names, from now on."""
    landing, fds = Landing(store), Descriptors(_descriptor_limit())
    whole = Whole(shown.digest, shown.tree, landing)
    with upstream.tiers as tiers:
        async with trio.open_nursery() as nursery:
            events, deadline_s = upstream.events, upstream.deadline_s
            misses = Misses(
                *(nursery, tiers, landing, fds, events), deadline_s=deadline_s, settled=whole.look
            )
            nursery.start_soon(misses.settle)
            nursery.start_soon(_look, whole)
            nursery.start_soon(prefetch, profile, shown.contents, misses, events)
            yield Source(shown, misses, landing, fds, profile)
            nursery.cancel_scope.cancel()
        fds.close()
        with contextlib.suppress(DevloopError, OSError):
            landing.settle()
        whole.look()
        landing.close()


async def _show(request: Request, source: Source, lines: Lines, events: Events) -> None:
    """Mounts it, and answers until the mount is gone."""
    shown, misses, landing, fds, profile = source
    operations = Operations(
        *(_view(request, shown), misses, landing, fds, events), file_of=_FileNames(shown.tree)
    )
    _mount(operations, request)
    try:
        events.ready()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_with, lines, nursery.cancel_scope)
            nursery.start_soon(_tune, request.mountpoint, misses)
            if request.profile != profile:
                nursery.start_soon(prefetch, request.profile, shown.contents, misses, events)
            await _answer(events)
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=True)


def _tell(events: Events, note: Note) -> None:
    digest = note.digest.hex() if note.digest is not None else None
    events.tell("tier", tier=note.tier, reason=note.reason, digest=digest)


def _mount(operations: Operations, request: Request) -> None:
    options = {"ro", "nosuid", "nodev", "default_permissions", "fsname=devloop"}
    options.add(f"subtype=devloop-{request.mode}")
    if os.geteuid() == 0:
        options.add("allow_other")
    pyfuse3.init(operations, str(request.mountpoint), options)


async def _look(whole: Whole) -> None:
    await trio.to_thread.run_sync(whole.look, abandon_on_cancel=True)


async def _tune(mountpoint: Path, misses: Misses) -> None:
    """Behind the back of those who read already. Until a start is over, what the kernel reads ahead
    is mostly what nobody needs."""
    await misses.start_is_over.wait()
    with contextlib.suppress(OSError):  # slower, and nothing worse
        device = device_of(mountpoint)
        if device is not None:
            await trio.to_thread.run_sync(tune, device, abandon_on_cancel=True)


async def _answer(events: Events) -> None:
    """Until the mount is gone. pyfuse3 gives up when the kernel's side says something odd; as long
    as the mount is there, so are its users."""
    while (error := await _answer_once()) is not None:
        events.tell("failed", digest=None, file=None, reason=f"the FUSE loop: {error}")
        if error.errno in (errno.ENODEV, errno.EBADF):
            return
        await trio.sleep(0.1)


async def _answer_once() -> OSError | None:
    failed: list[OSError] = []
    try:
        await pyfuse3.main(min_tasks=_IDLE_TASKS, max_tasks=_MOST_REQUESTS)
    except* OSError as group:
        failed = [error for error in group.exceptions if isinstance(error, OSError)]
    return failed[0] if failed else None


async def _end_with(lines: Lines, scope: trio.CancelScope) -> None:
    """Whoever has started this holds the other end of the pipe, also when it is killed."""
    while await lines.next():
        pass
    scope.cancel()


class Lines:
    """Of standard input."""

    def __init__(self) -> None:
        os.set_blocking(_STDIN, False)
        self._read = bytearray()

    async def next(self) -> bytes:
        """Empty at the end of it all."""
        while b"\n" not in self._read and len(self._read) < _MOST_LINE_BYTES:
            await trio.lowlevel.wait_readable(_STDIN)
            try:
                data = os.read(_STDIN, _READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                break
            self._read += data
        line, newline, self._read = self._read.partition(b"\n")
        return bytes(line + newline)


def _view(request: Request, shown: Shown) -> View:
    if request.mode == "blobs":
        return BlobView(shown.contents)
    return TreeView(shown.tree, ids_here("uid"), ids_here("gid"))


class _FileNames:
    """The first path that has a blob, for messages."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __call__(self, digest: Digest) -> str:
        for path, place in self._index.names:
            inode = self._index.inodes[place]
            if digest in (inode.digest, inode.chunks):
                return "/" + path.decode(errors="backslashreplace")
        return ""


def _descriptor_limit() -> int:
    """How many blobs may be open, of what the process may open at all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(4, min(_MOST_DESCRIPTORS, hard // 4))
