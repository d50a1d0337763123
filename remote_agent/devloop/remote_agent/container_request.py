"""What a container is to be, from what a client asked for and what of its image is here.

Owns nothing. Knows no process: `container` starts what comes out.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from devloop.cafs.digest import Digest
from devloop.cafs.errors import DevloopError
from devloop.cafs.mount import MountLevel, probe

from .container.job import HOST_FILES
from .container.spec import (
    ContainerSpec,
    ExtraMount,
    FolderRoot,
    ImageConfig,
    ImageRoot,
    Limits,
    is_below,
    is_taken,
    workspace_target,
)

if TYPE_CHECKING:
    from .container.spec import Root
    from .container_wish import ContainerWish
    from .images import Images

__all__ = [
    "MountMissing",
    "NoCommand",
    "TargetTaken",
    "command_of",
    "container_spec",
    "indexes_of",
    "mount_level",
    "own_command",
]


class MountMissing(DevloopError):
    """A folder that the container is to see is not on the box."""

    hint = "container.mounts names paths of the box: make the folder there, or correct it"


class TargetTaken(DevloopError):
    """Where a mount would hide what a container needs."""

    hint = "choose another path in the container, after the `:` in container.mounts"


class NoCommand(DevloopError):
    """Neither the user nor the image says what to run."""

    hint = "say what: `devloop exec -- COMMAND`, or run.command in devloop.toml"


def command_of(wish: ContainerWish, images: Images) -> tuple[bytes, ...]:
    """What the image runs when nobody says what to run: its Entrypoint, and its Cmd after it.

    Raises NoCommand, BadImageConfig.
    """
    command = own_command(images, wish.index)
    if not command:
        raise NoCommand(f"{wish.reference or 'the image'} has neither an Entrypoint nor a Cmd")
    return command


def own_command(images: Images, index: Digest) -> tuple[bytes, ...]:
    """Empty where the image has none. Raises ImageMissing, BadImageConfig."""
    return tuple(map(os.fsencode, ImageConfig.parse(images.store.config(index)).command))


def container_spec(
    wish: ContainerWish, images: Images, workspace: Path, caches: Path, profile: str
) -> ContainerSpec:
    """`profile`: of what to fetch ahead, a file. Reads a few small files.

    Raises ImageMissing, BadImageConfig, MountMissing, TargetTaken.
    """
    image = ImageConfig.parse(images.store.config(wish.index))
    mounts = tuple(
        ExtraMount(_existing(mount.source), os.fsdecode(mount.target), mount.read_only)
        for mount in wish.mounts
    )
    _refuse_taken(mounts, workspace_target(image))
    return ContainerSpec(
        root=_root(wish, images, profile),
        image=replace(image, user=wish.user) if wish.user else image,
        workspace=workspace,
        mounts=mounts,
        sources=_places([workspace, *(mount.source for mount in mounts), *map(Path, HOST_FILES)]),
        network="isolated" if wish.isolated_network else "host",
        shm_bytes=wish.shm_bytes or psutil.virtual_memory().total // 2,
        limits=Limits(wish.memory_bytes, wish.cpus, ulimits=wish.ulimits),
        name=wish.keep,
        reference=wish.reference,
        caches=caches if wish.caches else None,
    )


def _root(wish: ContainerWish, images: Images, profile: str) -> Root:
    level = mount_level(images.root)
    if level.name == "unpacked":
        return FolderRoot(images.copies.path(wish.index), wish.index.hex())
    return ImageRoot(
        level=level.name,
        metadata=images.store.metadata_path(wish.index)
        if level.name == "erofs+overlay"
        else images.store.index_path(wish.index),
        store=images.root,
        index=wish.index.hex(),
        lazy=not images.store.is_complete(wish.index),
        tiers=wish.store,
        profile=profile,
    )


def _refuse_taken(mounts: tuple[ExtraMount, ...], workspace: str) -> None:
    for mount in mounts:
        if is_taken(mount.target):
            raise TargetTaken(f"{mount.target} of a container is the kernel's or devloop's own")
        if is_below(workspace, mount.target):
            raise TargetTaken(
                f"a mount at {mount.target} would hide the project, which is at {workspace}"
            )


def _existing(source: bytes) -> Path:
    path = Path(os.fsdecode(source))
    if not path.exists():
        raise MountMissing(f"no {path} on this box to mount")
    return path


def _places(paths: list[Path]) -> tuple[tuple[int, int], ...]:
    """While a container has it mounted, nothing else can get its inode."""
    places = []
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            places.append((0, 0))
        else:
            places.append((found.st_dev, found.st_ino))
    return tuple(places)


@cache
def mount_level(images_dir: Path) -> MountLevel:
    """The best way to mount an image here; found out once, in some 100 ms."""
    images_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return probe(images_dir)


def indexes_of(specs: list[ContainerSpec]) -> set[Digest]:
    """The images that these containers need."""
    return {Digest.fromhex(spec.root.index) for spec in specs if spec.root.index}
