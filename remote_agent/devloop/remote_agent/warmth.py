"""What the next start in a workspace finds ready: interpreters, its container, files of its image.

Knows the words of `cafs.fuse.events` for what is fetched ahead, and no client.
"""

from __future__ import annotations

import json
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from .container.pool import Containers
    from .container.spec import ContainerSpec
    from .spawn import Spawner

__all__ = ["Ahead", "ContainerState", "Warmth", "WarmthDesk"]


class ContainerState(IntEnum):
    """Values as in the protocol."""

    NONE = 0
    STARTING = 1
    WARM = 2


class Ahead(NamedTuple):
    """How much was gone through of what starts are known to touch of an image."""

    files: int = 0
    of_files: int = 0
    size_bytes: int = 0
    of_bytes: int = 0


class Warmth(NamedTuple):
    zygotes: int
    loading: int
    container: ContainerState
    containers: int  # that were started, one after another
    ahead: Ahead


class WarmthDesk:
    """Every method belongs to the thread of the event loop."""

    def __init__(self, spawner: Spawner, containers: Containers) -> None:
        self._spawner = spawner
        self._containers = containers
        self._ahead: dict[ContainerSpec, Ahead] = {}

    def heard(self, container: ContainerSpec, event: str) -> None:
        """`event`: what its file server says."""
        if '"ahead"' not in event:
            return
        told = json.loads(event)
        if told.pop("event") == "ahead":
            known = [*self._containers.live(), *self._containers.starting()]
            self._ahead = {spec: ahead for spec, ahead in self._ahead.items() if spec in known}
            self._ahead[container] = Ahead(**told)

    def of(self, workspace: Path) -> Warmth:
        """`workspace`: its files."""
        warm = [spec for spec in self._containers.live() if spec.workspace == workspace]
        starting = [spec for spec in self._containers.starting() if spec.workspace == workspace]
        state = ContainerState.WARM if warm else ContainerState.NONE
        ahead = [self._ahead[spec] for spec in (*starting, *warm) if spec in self._ahead]
        return Warmth(
            *self._spawner.zygotes(workspace),
            ContainerState.STARTING if starting else state,
            self._containers.count_started(workspace),
            ahead[0] if ahead else Ahead(),
        )
