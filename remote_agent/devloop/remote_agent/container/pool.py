"""The containers of one agent: which are kept warm, which end, and what a killed agent has left.

Owns their folder:

    CONTAINERS/live/ID      of one container: its writable layer and its keeper's mount point
    CONTAINERS/named/NAME   a writable layer that is kept

One agent uses it, which the lock of its state directory sees to. Knows nothing of runs but whether
there are any.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError
from devloop.cafs.mount.within import remove_trees

from . import cgroups
from .container import Container, ContainerFailed, Keeper
from .job import Box, keeper_job, server_order
from .place import ContainerPlace
from .runtime import KINDS, find_runtime
from .spec import ImageRoot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from devloop.cafs.digest import Digest

    from .runtime import Kind
    from .spec import ContainerSpec

__all__ = ["Containers"]

MAX_CONTAINERS = 4
IDLE_S = 1800.0
SWEEP_S = 30.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Containers:
    """One an agent; every method belongs to the thread of its event loop.

    `on_served`: told each line (JSON) that the file server of a container's image says;
    `on_ending`: why a container ends that nobody has told to.
    """

    def __init__(self, folder: Path, *, kinds: tuple[Kind, ...] = KINDS) -> None:
        self._folder = folder
        self._kinds = kinds
        # Control groups have no owner: their names tell agents apart.
        self._tag = hashlib.blake2b(str(folder).encode(), digest_size=4).hexdigest()
        self._box: Box | None = None
        self._ahead: Keeper | None = None
        self._places: dict[ContainerSpec, ContainerPlace] = {}
        self._starting: dict[ContainerSpec, asyncio.Task[ContainerPlace]] = {}
        self._living: set[Container] = set()  # also those that start, and those that end
        self._tasks: set[asyncio.Task[None]] = set()
        self._started: Counter[Path] = Counter()  # by workspace
        self._sweeper: asyncio.Task[None] | None = None
        self.on_ending: Callable[[ContainerSpec, str], None] = lambda spec, why: None
        self.on_served: Callable[[ContainerSpec, str], None] = lambda spec, line: None

    def clear(self) -> None:
        """Removes what a killed agent has left. Blocks; before the first container."""
        remove_trees(list(self.live_dir.glob("*")))
        cgroups.remove_groups(f"devloop-{self._tag}-")

    def warm(self, tiers: tuple[str, ...] = ()) -> None:
        """Has a keeper wait for the next container; without it, the first takes longer.

        `tiers`: it will need a file server that has files from there.
        """
        if self._ahead is None:
            self._ahead = Keeper()
        if tiers and not self._ahead.is_prepared:
            self._ahead.prepare(server_order(tiers))

    def announce(self, store: Path, index: Digest, profile: str) -> None:
        """Of the image that `warm` was about, the index is here, and a profile or none."""
        if self._ahead is not None:
            told = {"store": str(store), "index": index.hex(), "profile": profile}
            self._ahead.announce(told)

    async def ensure(self, spec: ContainerSpec) -> ContainerPlace:
        """The container of `spec`, started if need be.

        Raises ContainerFailed, NoRuntime, NoPause or another DevloopError that says why not.
        """
        place = self._places.get(spec)
        if place is not None and place.is_alive:
            place.touch()
            return place
        starting = self._starting.get(spec)
        if starting is None:
            starting = asyncio.ensure_future(self._start(spec))
            self._starting[spec] = starting
            starting.add_done_callback(partial(self._on_start, spec))
        return await asyncio.shield(starting)

    def place_of(self, spec: ContainerSpec) -> ContainerPlace | None:
        place = self._places.get(spec)
        return place if place is not None and place.is_alive else None

    def standing_for(self, spec: ContainerSpec) -> ContainerSpec:
        """`spec`, or that of a container which was started while its image was on its way: now that
        all of it is here, it goes on as it is."""
        served = _served(spec)
        stands = self.place_of(served) is not None or served in self._starting
        return served if stands else spec

    def live(self) -> list[ContainerSpec]:
        """Also those on their way in."""
        alive = [spec for spec, place in self._places.items() if place.is_alive]
        return [*alive, *self._starting]

    def starting(self) -> list[ContainerSpec]:
        return list(self._starting)

    def count_started(self, workspace: Path) -> int:
        """Of a workspace, one after another."""
        return self._started[workspace]

    def zygotes(self, workspace: Path) -> list[tuple[int, int]]:
        """In each container of a workspace: those that are ready, those at their imports."""
        own = [(s, place) for s, place in self._places.items() if s.workspace == workspace]
        return [place.pool.counts(os.fsencode(spec.target)) for spec, place in own]

    async def end(
        self, matches: Callable[[ContainerSpec], bool], *, even_used: bool = True
    ) -> None:
        """Ends the containers that match, with all their runs; returns when they have ended."""
        ending = [
            place.end()
            for spec, place in list(self._places.items())
            if matches(spec) and (even_used or not place.is_used)
        ]
        await asyncio.gather(*ending)

    async def close(self) -> None:
        for starting in list(self._starting.values()):
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, DevloopError, OSError):
                await starting
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.end(lambda spec: True)
        await asyncio.gather(*(container.ended.wait() for container in self._living))
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        if self._tasks:
            await asyncio.wait(self._tasks)

    def memory_bytes(self) -> int:
        """What the zygotes in them hold."""
        return sum(place.pool.memory_bytes() for place in self._places.values())

    @property
    def live_dir(self) -> Path:
        return self._folder / "live"

    @property
    def named(self) -> Path:
        return self._folder / "named"

    async def _start(self, spec: ContainerSpec) -> ContainerPlace:
        box = await asyncio.to_thread(self._look_once)
        _check_name(spec.name)
        if (last := self._places.get(spec)) is not None:
            await last.end()  # it is on its way out, and may hold its layer until then
        await self._make_room(spec)
        folder = self.live_dir / f"{self._tag}-{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700, parents=True)
        self.warm()
        keeper, self._ahead = self._ahead, None
        assert keeper is not None
        container = Container(keeper)
        place = ContainerPlace(container, spec, box, folder)
        self._living.add(container)
        container.on_end = partial(self._on_end, spec, container, place, folder)
        container.on_ending = lambda why: self.on_ending(spec, why)
        container.on_served = lambda line: self.on_served(spec, line)
        try:
            job = keeper_job(spec, box, folder, self.named)
        except BaseException:
            container.kill()
            raise
        await container.start(job)
        self._places[spec] = place
        self._started[spec.workspace] += 1
        asyncio.get_running_loop().call_later(1.0, self._warm_if_used)
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.ensure_future(self._sweep())
        return place

    def _on_start(self, spec: ContainerSpec, task: asyncio.Task[ContainerPlace]) -> None:
        self._starting.pop(spec, None)
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody need

    def _warm_if_used(self) -> None:
        if self._places:
            self.warm()

    def _look_once(self) -> Box:
        if self._box is None:
            self._box = Box.look(find_runtime(self._kinds))
        return self._box

    async def _make_room(self, spec: ContainerSpec) -> None:
        """The longest unused goes; one whose layer is wanted goes first, and one that shows what is
        not at its paths any more. Those in use stay."""
        idle = self._idle()
        doomed = [place for other, place in idle if _is_replaced(other, spec)]
        kept = [place for _, place in idle if place not in doomed]
        # Those that start have no place yet, and count.
        surplus = len(self._living) - len(doomed) - MAX_CONTAINERS + 1
        doomed += kept[: max(0, surplus)]
        await asyncio.gather(*(place.end() for place in doomed))

    def _idle(self) -> list[tuple[ContainerSpec, ContainerPlace]]:
        """The longest unused first."""
        idle = [item for item in self._places.items() if not item[1].is_used]
        return sorted(idle, key=lambda item: item[1].last_used_s)

    async def _end_surplus(self) -> None:
        """Of starts at once, none could make room for another."""
        surplus = len(self._living) - MAX_CONTAINERS
        for _, place in self._idle()[: max(0, surplus)]:
            await place.end()

    async def _sweep(self) -> None:
        while self._places:
            await asyncio.sleep(SWEEP_S)
            await self._end_surplus()
            now = time.monotonic()
            for place in list(self._places.values()):
                if place.is_used:
                    place.touch()
                elif now - place.last_used_s > IDLE_S:
                    await place.end()

    def _on_end(
        self, spec: ContainerSpec, container: Container, place: ContainerPlace, folder: Path
    ) -> None:
        self._living.discard(container)
        place.close()
        if self._places.get(spec) is place:
            del self._places[spec]
        removal = asyncio.ensure_future(asyncio.to_thread(self._remove_one, folder))
        self._tasks.add(removal)
        removal.add_done_callback(self._tasks.discard)

    def _remove_one(self, folder: Path) -> None:
        remove_trees([folder])
        cgroups.remove_groups(cgroups.group_of(folder).strip("/"))


def _served(spec: ContainerSpec) -> ContainerSpec:
    """The same with a file server."""
    if isinstance(spec.root, ImageRoot) and not spec.root.lazy:
        return replace(spec, root=replace(spec.root, lazy=True))
    return spec


def _is_replaced(other: ContainerSpec, spec: ContainerSpec) -> bool:
    if spec.name and other.name == spec.name:
        return True
    return replace(other, sources=()) == replace(spec, sources=())


def _check_name(name: str) -> None:
    if name and not _NAME.fullmatch(name):
        raise ContainerFailed(
            f"not a name for a container: {name!r}",
            hint="use letters, digits, `_`, `.` and `-`, at most 63",
        )
