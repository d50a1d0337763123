"""What containers leave on the box: kept layers, caches, and what live ones have written.

Owns the sizes and the removal of these. A container that no run is in ends for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.mount.within import remove_trees

from .cleaning import Cleaned, taken_by
from .container import layers as kept_layers

if TYPE_CHECKING:
    from pathlib import Path

    from .agent import Agent

__all__ = ["Kept", "KeptLayer", "measure_kept", "remove_kept"]


class KeptLayer(NamedTuple):
    name: str
    size_bytes: int
    image: str  # the reference of the one that it was begun with, as far as it is known


class Kept(NamedTuple):
    layers: list[KeptLayer]
    caches_bytes: int
    live_bytes: int  # goes with the containers

    @property
    def size_bytes(self) -> int:
        return self.caches_bytes + sum(layer.size_bytes for layer in self.layers)


def measure_kept(agent: Agent) -> Kept:
    """Looks at every file: for a thread."""
    found = [
        KeptLayer(folder.name, taken_by(folder).size_bytes, kept_layers.begun_with(folder))
        for folder in _folders(agent.containers.named)
    ]
    caches, live = (
        taken_by(folder).size_bytes for folder in (agent.caches_dir, agent.containers.live_dir)
    )
    return Kept(found, caches, live)


async def remove_kept(agent: Agent, *, layers: bool, caches: bool) -> Cleaned:
    """What no run uses of them; the rest is named."""
    before = await asyncio.to_thread(measure_kept, agent)
    left = [
        *(await _remove_layers(agent) if layers else []),
        *(await _remove_caches(agent) if caches else []),
    ]
    after = await asyncio.to_thread(measure_kept, agent)
    return Cleaned(max(0, before.size_bytes - after.size_bytes), left)


async def _remove_layers(agent: Agent) -> list[str]:
    await agent.containers.end(lambda spec: bool(spec.name), even_used=False)
    return [
        f"layer {folder.name}: a run uses it"
        for folder in _folders(agent.containers.named)
        if not await asyncio.to_thread(kept_layers.remove, folder)
    ]


async def _remove_caches(agent: Agent) -> list[str]:
    await agent.containers.end(lambda spec: spec.caches is not None, even_used=False)
    if any(spec.caches is not None for spec in agent.containers.live()):
        return ["caches: a run uses them"]
    await asyncio.to_thread(remove_trees, _folders(agent.caches_dir))
    return []


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
