"""What can be said of an image: how large it is, what is here, what it shares. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from devloop.cafs.index import CHUNK_BYTES

from .image_profiles import profiles_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from devloop.cafs.digest import Digest
    from devloop.cafs.images import Image, ImageStore
    from devloop.cafs.profile import Profile

__all__ = ["ImageDetails", "ProfileDetails", "details_of"]


@dataclass(frozen=True, slots=True)
class ProfileDetails:
    """What the first start of a command touched. `arguments`: how many `program` had, up to 31."""

    program: str
    arguments: int
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """Sizes count each blob once."""

    image: Image
    config: bytes
    layers: tuple[str, ...]
    entries: int
    files: int
    size_bytes: int
    local_bytes: int
    shared_bytes: int
    profiles: tuple[ProfileDetails, ...]


def details_of(store: ImageStore, image: Image) -> ImageDetails:
    """Reads the indexes of all images: for a thread."""
    index = store.index(image.index_digest)
    blobs = index.blobs()
    missing = store.missing(index)
    others: set[Digest] = set()
    for digest in {other.index_digest for other in store.list()} - {image.index_digest}:
        others.update(store.index(digest).blobs())
    return ImageDetails(
        image=image,
        config=index.config,
        layers=index.layers,
        entries=len(index.names),
        files=sum(index.inodes[position].kind == "file" for _, position in index.names),
        size_bytes=sum(blobs.values()),
        local_bytes=sum(blobs.values()) - sum(missing.values()),
        shared_bytes=sum(size for digest, size in blobs.items() if digest in others),
        profiles=tuple(_profile_details(p, blobs) for p in profiles_of(store, image.index_digest)),
    )


def _profile_details(profile: Profile, sizes: Mapping[Digest, int]) -> ProfileDetails:
    size_bytes = sum(
        min(touch.chunks * CHUNK_BYTES, sizes[touch.digest])
        if touch.chunks
        else sizes[touch.digest]
        for touch in profile.touches
        if touch.digest in sizes
    )
    files = len({touch.digest for touch in profile.touches})
    program, keys = profile.command
    return ProfileDetails(program, max(0, len(keys) - 1), files, size_bytes)
