"""Hands GPUs to runs: asks the driver what there is, chooses, locks, and takes them back.

Owns the locks that this agent holds, and a reader of its own, which ends a while after it was last
asked. Decides nothing itself (gpu_choice.py). Runs that wish for no GPU never come here, so a
driver that does not answer is in nobody else's way.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError
from devloop.cafs.gpu_wish import parse_wish

from .gpu import GpuReader, GpuSnapshot, GpuState
from .gpu_choice import Busy, NoSuchGpus, allowed_by, choose, places_of
from .gpu_locks import GpuLocks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from .gpu_choice import Place
    from .gpu_locks import GpuLock, HeldBy

__all__ = ["GpuDesk", "GpuHold", "GpusUnavailable"]

PATIENCE_S = 20.0  # a driver that nobody has woken yet may take ten seconds with many GPUs
LIST_PATIENCE_S = 5.0
READER_LINGERS_S = 60.0
TRIES = 4
LONGEST_PAUSE_S = 0.03
LOOK_AGAIN_S = 1.0


class GpusUnavailable(DevloopError):
    """There is a driver, and it does not say what GPUs there are."""

    hint = "try `nvidia-smi` on the box; a run without run.gpus or --gpus needs no answer from it"


class _Lease:
    """A lock, and how many holds share it."""

    def __init__(self, lock: GpuLock) -> None:
        self.lock = lock
        self.holds = 0


class GpuHold:
    """The GPUs of one run, until it is released. Made by GpuDesk."""

    def __init__(self, desk: GpuDesk, wish: str, visible: str | None, places: Iterable[Place]):
        self.wish = wish
        self.visible = visible
        self.places = tuple(places)
        self.is_released = False
        self.has_run = False  # whose end releases it; until then, who acquired it must
        self._desk = desk

    @property
    def environment(self) -> dict[str, bytes]:
        """By uuid: numbers would depend on CUDA_DEVICE_ORDER. Empty for a run that wants none."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(p.uuid for p in self.places).encode()}

    def note(self, project: str, run: int) -> None:
        """Says whose they are, to all users of the box; nothing when they are released."""
        for place in () if self.is_released else self.places:
            self._desk.lease(place.uuid).lock.note(project, run, time.time_ns())

    def release(self) -> None:
        """Idempotent. What another hold shares stays held."""
        if not self.is_released:
            self.is_released = True
            self._desk.give_back(self.places)


class GpuDesk:
    """One an agent. Every method belongs to the thread of its event loop."""

    def __init__(self, *, reader: GpuReader | None = None, locks: GpuLocks | None = None) -> None:
        self._reader = reader or GpuReader()
        self._locks = locks or GpuLocks()
        self._leases: dict[str, _Lease] = {}
        self._reading = asyncio.Lock()
        self._given_back = asyncio.Event()
        self._asked_at = 0.0
        self._closing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        await self._reader.close()

    # -- for a run

    async def acquire(
        self, wish: str, *, visible: str | None, kept: Collection[GpuHold] = ()
    ) -> GpuHold | Busy:
        """What meets the wish, at once or not at all. A hold must be released.

        `visible`: what CUDA_VISIBLE_DEVICES is for the run so far; nothing else is given to it.
        `kept`: holds of the caller's own, whose GPUs are his for the asking and preferred.
        Raises BadWish, NoSuchGpus, GpusUnavailable, LocksUnusable.
        """
        wanted = parse_wish(wish)
        for hold in kept:
            if (hold.wish, hold.visible) == (wish, visible) and not hold.is_released:
                return self._hold(wish, visible, hold.places)
        if wanted.number == 0:
            return self._hold(wish, visible, ())
        snapshot = await self._snapshot(PATIENCE_S)
        if snapshot.state is not GpuState.OK:
            raise _unavailable(snapshot, wish)
        distances = [gpu.distances for gpu in snapshot.gpus]
        for _ in range(TRIES):
            own = {p.uuid for hold in kept if not hold.is_released for p in hold.places}
            places = allowed_by(visible, places_of(snapshot, self._holders(snapshot), own))
            chosen = choose(wanted, places, kept=own, distances=distances)
            if isinstance(chosen, Busy):
                return chosen
            if self._lease_all(chosen, own):
                return self._hold(wish, visible, chosen)
            # Two who lock at the same moment both let go: not to meet again, neither is punctual.
            await asyncio.sleep(random.uniform(0, LONGEST_PAUSE_S))
        return Busy((f'GPUs for "{wish}": others are choosing them at this moment',))

    async def until_changed(self) -> None:
        """Until it is worth asking again; others' GPUs become free without telling us."""
        try:
            async with asyncio.timeout(LOOK_AGAIN_S):
                await self._given_back.wait()
        except TimeoutError:
            pass

    def lease(self, uuid: str) -> _Lease:
        return self._leases[uuid]

    def give_back(self, places: Iterable[Place]) -> None:
        for place in places:
            lease = self._leases[place.uuid]
            lease.holds -= 1
            if not lease.holds:
                del self._leases[place.uuid]
                lease.lock.close()
        self._given_back.set()
        self._given_back = asyncio.Event()

    def _hold(self, wish: str, visible: str | None, places: Iterable[Place]) -> GpuHold:
        hold = GpuHold(self, wish, visible, places)
        for place in hold.places:
            self._leases[place.uuid].holds += 1
        return hold

    def _lease_all(self, places: Iterable[Place], own: Collection[str]) -> bool:
        """All of them or none."""
        taken: dict[str, _Lease] = {}
        try:
            for place in places:
                if place.uuid in own:
                    continue
                lock = self._locks.take(place.uuid)
                if lock is None:
                    return False
                taken[place.uuid] = _Lease(lock)
            self._leases |= taken
            taken = {}
            return True
        finally:
            for lease in taken.values():
                lease.lock.close()

    # -- for people

    async def look(self) -> tuple[GpuSnapshot, dict[str, HeldBy]]:
        """What there is, and who holds which uuid. A driver in trouble is in the snapshot."""
        snapshot = await self._snapshot(LIST_PATIENCE_S)
        held = {uuid: self._locks.holder(uuid) for uuid in _uuids(snapshot)}
        return snapshot, {uuid: holder for uuid, holder in held.items() if holder is not None}

    def _holders(self, snapshot: GpuSnapshot) -> Mapping[str, str]:
        held = ((uuid, self._locks.holder(uuid)) for uuid in _uuids(snapshot))
        return {uuid: str(holder) for uuid, holder in held if holder is not None}

    # -- the driver

    async def _snapshot(self, patience_s: float) -> GpuSnapshot:
        async with self._reading:
            self._asked_at = time.monotonic()
            if self._closing is None:
                self._closing = asyncio.create_task(self._close_reader_later())
            while True:
                snapshot = await self._reader.read()
                waited_s = time.monotonic() - self._asked_at
                if not self._reader.is_waiting or waited_s >= patience_s:
                    return snapshot

    async def _close_reader_later(self) -> None:
        left_s = READER_LINGERS_S
        while left_s > 0:
            await asyncio.sleep(left_s)
            left_s = self._asked_at + READER_LINGERS_S - time.monotonic()
        async with self._reading:
            self._closing = None
            await self._reader.close()


def _uuids(snapshot: GpuSnapshot) -> list[str]:
    slices = [part.uuid for gpu in snapshot.gpus for part in gpu.slices]
    return [gpu.uuid for gpu in snapshot.gpus] + slices


def _unavailable(snapshot: GpuSnapshot, wish: str) -> DevloopError:
    if snapshot.state is GpuState.NONE:
        return NoSuchGpus(f'the box has no GPUs for "{wish}": {snapshot.detail}')
    return GpusUnavailable(f'no GPU can be chosen for "{wish}": {snapshot.detail}')
