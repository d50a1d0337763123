"""What the agent's disk holds and how sound it is, as plain values. Only upkeep verbs import it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Abilities", "Ability", "Cleaned", "Taken", "Usage", "Verified", "WorkspaceUsage"]


class Taken(NamedTuple):
    """What a folder takes on the box."""

    files: int
    size_bytes: int  # of disk space
    shared_bytes: int  # of these, in files that lie in the agent's store as well


class WorkspaceUsage(NamedTuple):
    """What a workspace takes."""

    id: str
    name: str
    origin: bytes  # the project's path on the machine of its client; empty: not known
    files: Taken  # synced files, and what runs made
    aside: Taken  # what a sync found changed on the box, and kept
    runs: Taken  # records and logs
    used_ns: int  # Unix time of the last sync or run
    live_runs: tuple[int, ...]
    is_followed: bool  # by an `up` that waits for saves

    @property
    def size_bytes(self) -> int:
        return self.files.size_bytes + self.aside.size_bytes + self.runs.size_bytes


class Layer(NamedTuple):
    """A writable layer that `container.keep` keeps; `image`: that it was begun with, if known."""

    name: str
    size_bytes: int
    image: str


class Usage(NamedTuple):
    """`caches_bytes`: of runs in images; `live_bytes`: layers that go with their containers."""

    workspaces: list[WorkspaceUsage]
    store_bytes: int
    store_limit_bytes: int
    layers: list[Layer]
    caches_bytes: int
    live_bytes: int


class Cleaned(NamedTuple):
    freed_bytes: int
    left: list[str]  # "PATH: REASON", what could not be deleted


class Ability(NamedTuple):
    """Something that a box can do (`name` says how), or why it cannot, or not in the best way."""

    name: str
    why: str
    hint: str


class Abilities(NamedTuple):
    """What a box allows of images and containers."""

    images: Ability
    lazy: Ability
    containers: Ability
    gpus: str  # how they come into containers, for people
    missing_limits: tuple[str, ...]


class Verified(NamedTuple):
    """What a look at every blob found; the damaged ones are gone by now."""

    blobs: int
    damaged: int
    problems: list[str]  # "PATH: REASON", of the first ones
