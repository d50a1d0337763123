"""What the first start of a command touched of its image: noted here, fetched ahead elsewhere.

Owns IMAGES/profiles and how a recording becomes a profile. Knows nothing of mounts: the container's
keeper says what was opened, its file server which pieces of large files were read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import TYPE_CHECKING

from devloop.cafs.digest import Digest
from devloop.cafs.errors import DevloopError
from devloop.cafs.index import CHUNK_BYTES
from devloop.cafs.profile import (
    Profile,
    ProfileInvalid,
    Touch,
    best_for,
    command_of,
    profile_name,
)

from .container.spec import ImageRoot
from .page_cache import let_go, used_pieces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from devloop.cafs.images import ImageStore
    from devloop.cafs.index import Index, Inode
    from devloop.cafs.profile import Command

    from .container.pool import Containers
    from .container.spec import ContainerSpec
    from .run import Run

__all__ = ["MOST_OF_AN_IMAGE", "ImageProfiles", "profiles_of"]

RECORD_S = 30.0
MOST_OF_AN_IMAGE = 16

Chunks = dict[Digest, dict[int, None]]


class ImageProfiles:
    def __init__(self, containers: Containers) -> None:
        self._containers = containers
        self._read_pieces: dict[ContainerSpec, Chunks] = {}

    # -- for a start

    def path_for(self, store: ImageStore, index: Digest, command: Sequence[bytes]) -> str:
        """Of the profile that suits best; empty when there is none."""
        best = best_for(_command(index, command), profiles_of(store, index))
        return str(store.root / "profiles" / best.name) if best is not None else ""

    def is_new(self, store: ImageStore, index: Digest, command: Sequence[bytes]) -> bool:
        name = profile_name(index, _command(index, command))
        return not (store.root / "profiles" / name).exists()

    def let_go(self, store: ImageStore, index: Digest) -> None:
        """Takes what is whole here of large files out of the page cache. For a thread."""
        for inode in _large(store, index):
            with contextlib.suppress(OSError, DevloopError):
                let_go(_path(store, inode))

    # -- while it runs

    def heard(self, container: ContainerSpec, event: str) -> None:
        """`event`: what its file server says."""
        if not container.records or '"touched"' not in event:
            return
        told = json.loads(event)
        if told.get("event") == "touched":
            read = self._read_pieces.setdefault(container, {})
            pieces = read.setdefault(Digest.fromhex(told["digest"]), {})
            if told["chunk"] is not None:
                pieces[told["chunk"]] = None

    async def record(self, store: ImageStore, run: Run) -> None:
        """Until the run has ended, or is past its start."""
        container = run.spec.container
        assert container is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(run.ended.wait(), RECORD_S)
        place = self._containers.place_of(container)
        read = self._read_pieces.pop(container, {})
        if place is None:
            return
        with contextlib.suppress(DevloopError, OSError):
            opened = await place.stop_recording()
            await asyncio.to_thread(_write, store, container, run.spec.argv, opened, read)


def profiles_of(store: ImageStore, index: Digest) -> Iterator[Profile]:
    for path in sorted((store.root / "profiles").glob(f"{index.hex()}-*")):
        with contextlib.suppress(OSError, ProfileInvalid):
            yield Profile.decode(path.read_bytes())


def _write(
    store: ImageStore,
    container: ContainerSpec,
    argv: Sequence[bytes],
    opened: Iterable[bytes],
    read: Chunks,
) -> None:
    assert isinstance(container.root, ImageRoot)
    index = Digest.fromhex(container.root.index)
    image = store.index(index)
    if container.root.level == "fuse+overlay":  # its server sees each open; only root sees others
        found = _read_from(image, read)
    else:
        found = _opened_in(image, opened)
    touches = tuple(_touches(store, found, read))
    if touches:
        profile = Profile(index, _command(index, argv), touches)
        store.put_profile(profile.name, profile.encode(), most=MOST_OF_AN_IMAGE)


def _opened_in(image: Index, opened: Iterable[bytes]) -> Iterator[Inode]:
    files = {path: image.inodes[number] for path, number in image.names}
    for path in opened:
        inode = files.get(path.lstrip(b"/"))
        if inode is not None:
            yield inode


def _read_from(image: Index, read: Chunks) -> Iterator[Inode]:
    files = {inode.digest: inode for inode in image.inodes}
    return (files[digest] for digest in read if digest in files)


def _touches(store: ImageStore, inodes: Iterable[Inode], read: Chunks) -> Iterator[Touch]:
    seen: set[Digest] = set()
    for inode in inodes:
        if inode.digest is None or inode.digest in seen:
            continue
        seen.add(inode.digest)
        if inode.chunks is None:
            yield Touch(inode.digest)
            continue
        yield Touch(inode.chunks)
        pieces = read.get(inode.digest)
        for first, count in _spans(pieces if pieces is not None else _used(store, inode)):
            yield Touch(inode.digest, first, count)


def _spans(chunks: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = count = 0
    for chunk in chunks:
        if count and chunk == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = chunk, 1
    if count:
        yield first, count


def _used(store: ImageStore, inode: Inode) -> list[int]:
    with contextlib.suppress(OSError):
        return used_pieces(_path(store, inode), CHUNK_BYTES)
    return []


def _large(store: ImageStore, index: Digest) -> list[Inode]:
    return [inode for inode in store.index(index).inodes if inode.chunks is not None]


def _path(store: ImageStore, inode: Inode) -> Path:
    assert inode.digest is not None
    return store.blobs.path_of(inode.digest)


def _command(index: Digest, words: Sequence[bytes]) -> Command:
    return command_of(index, tuple(map(os.fsdecode, words)))
