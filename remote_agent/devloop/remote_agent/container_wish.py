"""Where a run is to live, as its client asks for it: plain values, checked.

Runs of one workspace whose wishes are equal share a container. Knows nothing of how one is made
(`container/`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from devloop.cafs.digest import Digest
from devloop.cafs.ulimits import Ulimit

__all__ = ["ContainerWish", "MountWish"]

MAX_MOUNTS = 100


@dataclass(frozen=True, slots=True)
class MountWish:
    """A folder or file of the box that the container sees. Both paths are absolute and plain.

    Raises ValueError for others.
    """

    source: bytes
    target: bytes
    read_only: bool = False

    def __post_init__(self) -> None:
        for path in (self.source, self.target):
            if not path.startswith(b"/") or os.path.normpath(path) != path or path == b"/":
                raise ValueError(f"not a path for a mount: {os.fsdecode(path)!r}")


@dataclass(frozen=True, slots=True)
class ContainerWish:
    """Sizes in bytes; 0 stands for no limit. Raises ValueError and BadUlimit for what makes no
    sense."""

    index: Digest
    reference: str = ""  # for people
    mounts: tuple[MountWish, ...] = ()
    isolated_network: bool = False
    shm_bytes: int = 0  # 0: half of the box's memory
    memory_bytes: int = 0
    cpus: float = 0.0
    keep: str = ""  # a name for the writable layer; empty: it is thrown away
    caches: bool = True
    user: str = ""  # instead of the image's own
    store: tuple[str, ...] = ()  # tiers, nearest first
    ulimits: tuple[Ulimit, ...] = ()  # one of each name

    def __post_init__(self) -> None:
        if len(self.mounts) > MAX_MOUNTS:
            raise ValueError(f"{len(self.mounts)} mounts; at most {MAX_MOUNTS}")
        if "/" in self.keep or self.keep.startswith("."):
            raise ValueError(f"not a name for a container: {self.keep!r}")
        for limit in self.ulimits:
            limit.checked()
