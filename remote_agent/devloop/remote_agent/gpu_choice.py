"""Which GPUs a run gets: decided from plain values, without asking anybody anything.

Knows what counts as free, and what is preferred among the free ones. Knows no driver and no lock.

Free is what no program computes on, no devloop run holds, and whose memory is not taken by somebody
who cannot be seen from here (in another container, say). A screen drawn on it does not matter. Of
those that fit, a run gets what it had before, then the group that is closest together (NVLink, then
one board, one socket), then the ones with the least memory used, then the first ones.

A divided GPU (MIG) is given by its slices, one to a run: CUDA sees no more than one.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError
from devloop.cafs.gpu_wish import GpuWish, size_words

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from .gpu import Gpu, GpuProcess, GpuSlice, GpuSnapshot

__all__ = ["Busy", "NoSuchGpus", "Place", "allowed_by", "choose", "places_of"]

# What a driver, and a screen that is drawn out of sight, may take of one that is free.
UNSEEN_BYTES = 1 << 30
# Differences below this are noise.
MEMORY_STEP_BYTES = 256 << 20
FAR = 100
MAX_COMMAND_CHARS = 60


class NoSuchGpus(DevloopError):
    """The box could not give what a run wants even if nobody used its GPUs."""

    hint = "`devloop gpus` lists what is there; run.gpus and --gpus say what a run needs"


@dataclass(frozen=True, slots=True)
class Place:
    """A GPU, or a slice of one, that a run can be given."""

    uuid: str
    label: str  # as nvidia-smi numbers them: "0", and "0:1" for a slice
    name: str
    gpu: int  # its place in the snapshot
    memory_used_bytes: int
    memory_total_bytes: int
    is_slice: bool = False
    users: tuple[str, ...] = ()  # who uses it, for people; empty: it is free

    def __str__(self) -> str:
        return f"GPU {self.label} ({self.name})"


@dataclass(frozen=True, slots=True)
class Busy:
    """There are GPUs that fit, and too few of them are free. `lines`: who uses each."""

    lines: tuple[str, ...]


def places_of(
    snapshot: GpuSnapshot, holders: Mapping[str, str], kept: Collection[str] = ()
) -> list[Place]:
    """What there is to give. `holders`: which uuid is held by whom, in words.

    `kept`: what the caller holds already: it is free for him, whatever his program does there.
    """
    places = []
    for number, gpu in enumerate(snapshot.gpus):
        if not gpu.is_divided:
            places.append(_place(gpu, str(gpu.index), number, holders, kept))
        for part in gpu.slices:
            label = f"{gpu.index}:{part.index}"
            places.append(_place(part, label, number, holders, kept, is_slice=True))
    return places


def _place(
    unit: Gpu | GpuSlice,
    label: str,
    gpu: int,
    holders: Mapping[str, str],
    kept: Collection[str],
    *,
    is_slice: bool = False,
) -> Place:
    return Place(
        uuid=unit.uuid,
        label=label,
        name=unit.name,
        gpu=gpu,
        memory_used_bytes=unit.memory_used_bytes or 0,
        memory_total_bytes=unit.memory_total_bytes or 0,
        is_slice=is_slice,
        users=() if unit.uuid in kept else _users(unit, holders.get(unit.uuid)),
    )


def _users(unit: Gpu | GpuSlice, holder: str | None) -> tuple[str, ...]:
    """What runs on a held GPU is most likely its holder's own."""
    if holder is not None:
        return (holder,)
    computing = [process for process in unit.processes if process.computes]
    if computing:
        return tuple(_process_words(process) for process in computing)
    unseen_bytes = _unseen_bytes(unit)
    if unseen_bytes > UNSEEN_BYTES:
        return (f"a program that cannot be seen from here holds {_rounded(unseen_bytes)}",)
    return ()


def _unseen_bytes(unit: Gpu | GpuSlice) -> int:
    seen = [process.memory_bytes for process in unit.processes]
    if unit.memory_used_bytes is None or None in seen:
        return 0
    return unit.memory_used_bytes - sum(size or 0 for size in seen)


def _process_words(process: GpuProcess) -> str:
    command = process.command or "a program"
    if len(command) > MAX_COMMAND_CHARS:
        command = command[: MAX_COMMAND_CHARS - 1] + "…"
    of_user = f"{process.user}: " if process.user else ""
    return f"{of_user}{command} (pid {process.pid})"


def allowed_by(visible: str | None, places: Sequence[Place]) -> list[Place]:
    """What CUDA_VISIBLE_DEVICES leaves; None: it is not set. Numbers go by nvidia-smi's order.

    As in CUDA, what stands behind a word that names nothing does not count.
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
    """
    if visible is None:
        return list(places)
    allowed: list[Place] = []
    for word in map(str.strip, visible.split(",")):
        named = [place for place in places if _is_named(word, place)]
        if not named:
            break
        allowed += [place for place in named if place not in allowed]
    return allowed


def _is_named(word: str, place: Place) -> bool:
    if word.isascii() and word.isdigit():
        return place.label.partition(":")[0] == str(int(word))
    return bool(re.match(r"(GPU|MIG)-.", word)) and place.uuid.startswith(word)


def choose(
    wish: GpuWish,
    places: Sequence[Place],
    *,
    kept: Collection[str] = (),
    distances: Sequence[Sequence[int]] = (),
) -> tuple[Place, ...] | Busy:
    """The places for a run, in their own order, or who is in the way. Raises NoSuchGpus.

    `kept` are preferred; `distances` from GPU to GPU, by their places in the snapshot.
    """
    if wish.number == 0:
        return ()
    fitting = _fitting(wish, places)
    if len(fitting) < wish.number:
        raise _no_such_gpus(wish, places)
    free = [place for place in fitting if not place.users]
    if len(free) < wish.number:
        return Busy(tuple(f"{place}: {'; '.join(place.users)}" for place in fitting if place.users))

    def cost(place: Place) -> tuple[bool, bool, int]:
        return place.uuid not in kept, place.is_slice, _used(place, kept)

    groups = [_grow(seed, sorted(free, key=cost), wish.number, kept, distances) for seed in free]
    best = min(groups, key=lambda group: _group_cost(group, kept, distances), default=())
    return tuple(sorted(best, key=lambda place: places.index(place)))


def _fitting(wish: GpuWish, places: Sequence[Place]) -> list[Place]:
    return [
        place
        for place in places
        if wish.fits_memory(place.memory_total_bytes)
        and (_fits_slice(wish, place) if place.is_slice else wish.fits_name(place.name))
    ]


def _fits_slice(wish: GpuWish, place: Place) -> bool:
    """Whoever names a model means a whole one: a slice is wished for by its profile, or by none."""
    if wish.number > 1:
        return False
    model = place.name.partition(" MIG ")[0]
    return not wish.names or any(
        one.fits_name(place.name) and not one.fits_name(model)
        for one in (GpuWish(names=(name,)) for name in wish.names)
    )


def _grow(
    seed: Place,
    free: Sequence[Place],
    number: int,
    kept: Collection[str],
    distances: Sequence[Sequence[int]],
) -> tuple[Place, ...]:
    """A group around `seed`: each time the one that is closest to those in it already."""
    group = [seed]
    while len(group) < number:
        left = [place for place in free if place not in group]
        group.append(
            min(
                left,
                key=lambda place: (
                    place.uuid not in kept,
                    sum(_distance(place, other, distances) for other in group),
                ),
            )
        )
    return tuple(group)


def _group_cost(
    group: Sequence[Place], kept: Collection[str], distances: Sequence[Sequence[int]]
) -> tuple[int, int, int, int]:
    return (
        sum(place.uuid not in kept for place in group),
        sum(place.is_slice for place in group),
        sum(_distance(one, other, distances) for one in group for other in group),
        sum(_used(place, kept) for place in group),
    )


def _used(place: Place, kept: Collection[str]) -> int:
    """What is used of a kept one is the caller's own, and gone by the time he needs it."""
    return 0 if place.uuid in kept else place.memory_used_bytes // MEMORY_STEP_BYTES


def _distance(one: Place, other: Place, distances: Sequence[Sequence[int]]) -> int:
    if one.gpu == other.gpu:
        return 0
    try:
        return distances[one.gpu][other.gpu]
    except IndexError:
        return FAR


def _no_such_gpus(wish: GpuWish, places: Sequence[Place]) -> NoSuchGpus:
    kinds = Counter(f"{place.name} with {_rounded(place.memory_total_bytes)}" for place in places)
    listed = ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
    has = f"there is {listed or 'none'}"
    if wish.number > 1 and any(place.is_slice for place in places):
        hint = "a program sees one slice of a divided GPU and no more: wish for 1"
        return NoSuchGpus(f'the box has no GPUs for "{wish}": {has}', hint=hint)
    return NoSuchGpus(f'the box has no GPUs for "{wish}": {has}')


def _rounded(size_bytes: int) -> str:
    tenths = round(size_bytes * 10 / (1 << 30))
    return size_words((tenths << 30) // 10) or "0GB"
